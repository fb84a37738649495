"""Check, then time, minillm's providers and PyTorch in turns. Run it from the checkout."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from bench.environment import torch_masks
from minillm.cli.main import INTERRUPTED, NUMPY_POOLS, one_line
from minillm.cli.parser import USAGE, Parser, whole

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SIZES = ("XS", "S", "M")
CACHE = Path(tempfile.gettempdir()) / "minillm-bench"
COMMANDS = {  # name: (module, rounds, summary)
    "ops": ("ops", 7, "every op of the registry, forward and backward"),
    "cases": ("ops", 5, "matrix products and operations at fixed shapes"),
    "train": ("steps", 5, "a training step: forward, backward, clipping, AdamW"),
    "generate": ("decode", 3, "greedy decoding, prompts, the first token and memory"),
    "serve": ("serve", 3, "a server with several streaming clients, and what HTTP costs"),
    "overhead": ("overhead", 300, "what a call costs beyond NumPy's, and whether memory is flat"),
}


def positive(text: str) -> int:
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, 1 or more is needed")
    return number


def build_parser() -> Parser:
    parser = Parser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="command", required=True, dest="command")
    for name, (_, rounds, summary) in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        add = sub.add_argument
        add("--json", type=Path, metavar="FILE", help="write the machine and all rows")
        add("--threads", type=positive, default=THREADS, metavar="N", help=f"({THREADS})")
        add("--rounds", type=positive, default=rounds, metavar="N", help=f"({rounds})")
        add("--provider", nargs="+", choices=("reference", "cpu"), help="(all there are)")
        sub.set_defaults(against=None, compile=False, best=False)
        if name == "overhead":
            continue
        if name == "serve":
            add_serve(sub)
            continue
        add("--precision", choices=("f32", "bf16"), default="f32", help="(f32)")
        if name == "generate":
            add_generate(sub)
            continue
        if name != "cases":
            add("--size", nargs="+", choices=SIZES, default=["S"], help="of the model (S)")
        add("--against", choices=("torch",), help="time PyTorch too, if it is installed")
        if name in ("ops", "cases"):
            add("--only", nargs="+", metavar="NAME", help="these ops, or kinds of cases")
        if name == "train":
            add("--compile", action="store_true", help="torch.compile too, half a minute each")
            add("--best", action="store_true", help="a second table, PyTorch at its best")
    return parser


def add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--against", choices=("llama.cpp", "torch"), help="time it too, if it is installed")
    add("--peer-python", metavar="FILE", help="its interpreter (MINILLM_PEER_PYTHON, this one)")
    add(
        "--model",
        nargs="+",
        metavar="M",
        help="GGUF file, XS, S, gpt2-124m, smollm2; also with a type, as gpt2-124m:q8_0",
    )
    add(
        "--cache",
        type=Path,
        default=CACHE,
        metavar="DIR",
        help="where models are made (%(default)s)",
    )


def add_serve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--against", choices=("llama.cpp",), help="time llama-cpp-python's server too")
    add("--peer-python", metavar="FILE", help="its interpreter (MINILLM_PEER_PYTHON, this one)")
    add("--model", nargs=1, metavar="M", default=["smollm2"], help="as in generate (smollm2)")
    add("--cache", type=Path, default=CACHE, metavar="DIR", help="where models are made")
    add("--clients", nargs="+", type=positive, default=[1, 4, 16, 64], metavar="N", help="at once")
    add("--tokens", type=positive, default=64, metavar="N", help="of an answer (64)")
    add("--requests", type=positive, metavar="N", help="short ones, to see whether memory is flat")


def settle(options: argparse.Namespace) -> None:
    """Which contenders there are. RuntimeError if the extension is asked for and missing."""
    from minillm import kernels

    if options.provider is None:
        options.provider = ["reference"] if kernels.cpu is None else ["reference", "cpu"]
        if options.command in ("generate", "serve"):  # only what a user gets
            del options.provider[:-1]
    if "cpu" in options.provider and kernels.cpu is None:
        raise RuntimeError(
            "provider: cpu needs the C++ extension, which is not installed; pip install ."
        )
    for name in ("compile", "best"):
        if getattr(options, name) and not options.against:
            raise ValueError(f"{name}: PyTorch does not take part, --against torch is needed")
    if options.command in ("generate", "serve"):  # the peer has an interpreter of its own
        return
    if options.against == "torch" and importlib.util.find_spec("torch") is None:
        print("torch: not installed, left out")
        options.against = None
    if options.against == "torch":
        os.environ |= torch_masks(os.environ.get("MINILLM_ISA"))


def main() -> int:
    options = build_parser().parse_args()
    for pool in NUMPY_POOLS:  # read once, by the libraries that the next lines import
        os.environ[pool] = str(options.threads)
    try:
        settle(options)
        return importlib.import_module(f"bench.{COMMANDS[options.command][0]}").run(options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, RuntimeError, OSError) as error:
        print(f"bench: {one_line(error)}", file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    sys.exit(main())

"""Write text with a trained model."""

from __future__ import annotations

import argparse
import json
import sys

from minillm.cli.main import OK, tell
from minillm.training.console import Console, visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder, .gguf file or pulled name")
    parser.add_argument("--prompt", default="", help="text to continue, - to read it from stdin")
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="length (200, or what the context leaves)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0 is greedy (0.8)"
    )
    parser.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="only the K best, 0 for all (0)"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="only the nucleus (1)"
    )
    parser.add_argument(
        "--overflow",
        choices=("error", "truncate", "slide"),
        default="error",
        help="more than the context: refuse, drop the prompt's front, or what is far behind",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same text (0)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the extension")
    parser.add_argument("--no-cache", action="store_true", help="compute every position each time")
    parser.add_argument("--json", action="store_true", help="print a JSON object when it is done")


def run(arguments: argparse.Namespace) -> int:
    from minillm import kernels
    from minillm.cli.texts import decoded
    from minillm.generation import stream
    from minillm.generation.prompts import first_ids
    from minillm.models.folder import load

    if arguments.seed < 0:
        raise ValueError(f"--seed: {arguments.seed}, 0 or more is needed")
    if arguments.threads is not None:
        kernels.set_threads(arguments.threads)
    model, tokenizer = load(arguments.model)
    prompt = arguments.prompt
    if prompt == "-":
        prompt = decoded(sys.stdin.buffer.read(), "generate", "the prompt")
    if not prompt and not first_ids(tokenizer, prompt):
        raise ValueError("generate: no prompt given, this model needs one to begin with; --prompt")
    console = Console(sys.stdout)
    pieces = stream(
        model,
        tokenizer,
        prompt,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        use_cache=not arguments.no_cache,
        overflow=arguments.overflow,
        on_notice=lambda notice: tell(f"\nminillm: note: {notice}"),
    )
    if arguments.json:
        print(json.dumps({"prompt": prompt, "text": "".join(pieces)}, ensure_ascii=False))
        return OK
    shown = visible if console.isatty() else str
    first = next(pieces, "")
    goes_on = model.config.kind != "encoder-decoder"  # such a model writes another text
    console.write(shown(prompt + first if goes_on else first))
    for piece in pieces:
        if console.lost is not None:
            break
        console.write(shown(piece))
    console.write("\n")
    if console.full is not None:
        raise console.full
    return OK

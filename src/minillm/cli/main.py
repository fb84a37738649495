"""The `minillm` command: finds the subcommand, and turns errors into one line and exit code 2."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec

from minillm.cli.parser import USAGE, Parser

OK, FAILED, INTERRUPTED = 0, 1, 130  # exit codes, beside USAGE
COMMANDS = {  # each a file of this folder that begins with these words
    "train": "Train a language model on text files, or a translator on pairs of texts.",
    "finetune": "Tune a model on conversations, instructions, preferences or text, or for a task.",
    "generate": "Write text with a trained model.",
    "chat": "Talk with a model in the terminal.",
    "serve": "Serve models over HTTP, for OpenAI's clients (extra: serve).",
    "predict": "Show the tokens that a model expects next, most probable first.",
    "score": "Say how probable a text is to a model: per token, perplexity, bits per byte.",
    "embed": "Turn texts into vectors with an encoder, and compare them.",
    "task": "Let a model do its job: classify, tag, answer, embed, recommend or translate.",
    "eval": "Measure a model, with intervals, beside what needs no model.",
    "compare": "Say whether one model is better than another on the same examples, or only "
    "luckier.",
    "runs": "List training runs, or compare some of them.",
    "info": "Say what a model is, from the headers of its files: sizes, memory, tokenizer, checks.",
    "convert": "Write a model in another format or with smaller numbers, and compare the two.",
    "quantize": "Write a model as a GGUF file of fewer bits, and show what that costs and gains.",
    "merge": "Merge a LoRA adapter into its base, and compare the logits before and after.",
    "data": "Look into texts, and prepare them for training.",
    "tokenizer": "Learn a tokenizer from texts.",
    "pull": "Fetch a model from the Hugging Face hub (extra: hf).",
    "verify-resume": "Prove on this machine that a resumed run equals an uninterrupted one, "
    "byte for byte.",
    "doctor": "Show what is installed, and prove on this machine that all providers agree with "
    "the reference.",
}
ERRORS = (  # what a person can be told in one line
    ValueError,
    TypeError,
    LookupError,
    OSError,
    RuntimeError,
    ImportError,
    MemoryError,
)
NEEDED = {  # where the system says no
    errno.ENOENT: ", one that is there is needed",
    errno.EACCES: ", one that may be read or written is needed",
    errno.EPERM: ", one that may be changed is needed",
    errno.EISDIR: ", a file is needed",
    errno.ENOTDIR: ", a folder is needed",
    errno.ENOSPC: ", more room is needed",
}
NUMPY_POOLS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


def limit_numpy_threads(arguments: Sequence[str]) -> None:
    """NumPy's own thread pool reads its size once, when it starts: before anything imports it.

    It gets the --threads; beside the extension, which computes, one: the others would only wait,
    and awake at that.
    """
    count = "1" if _extension_serves() else ""
    for place, word in enumerate(arguments):
        name, _, value = word.partition("=")
        if name == "--threads" and not count:
            value = value or (arguments[place + 1] if place + 1 < len(arguments) else "")
            count = value if value.isdecimal() and int(value) > 0 else ""
    for pool in NUMPY_POOLS if count else ():
        os.environ.setdefault(pool, count)


def _extension_serves() -> bool:
    return os.environ.get("MINILLM_KERNELS") != "off" and find_spec("minillm._cpu") is not None


def build_parser() -> Parser:
    from minillm import __version__

    parser = Parser(
        prog="minillm",
        description="Train and run small Transformer language models with nothing but NumPy.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"minillm {__version__}")
    commands = parser.add_subparsers(prog=parser.prog, metavar="command", required=True)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.command = name
        sub.set_defaults(command=name, parser=sub)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code. MINILLM_DEBUG=1 shows the traceback of an error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    limit_numpy_threads(arguments)
    prepare_streams()
    warnings.showwarning = _show_warning
    command = ""
    try:
        options, unknown = build_parser().parse_known_args(arguments)
        if unknown:
            options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        command = options.command
        code = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        tell("\ninterrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return OK
    except ERRORS as e:
        if os.environ.get("MINILLM_DEBUG"):
            raise
        tell(f"minillm: {one_line(e, command)}")
        return USAGE
    finally:
        _drop_unwritten()


def prepare_streams() -> None:
    """Text that the console's encoding lacks is escaped; a stream that is missing takes nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
    """Write a line to standard error; nothing happens where nobody reads it."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _drop_unwritten() -> None:
    """Keep the interpreter from failing at exit on output that could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(error: BaseException, command: str = "") -> str:
    """What a person needs of an error; one of the system is that of a `command`, if it is given."""
    if isinstance(error, OSError) and error.strerror:
        names = (command, os.fsdecode(error.filename) if error.filename else "")
        needed = NEEDED.get(error.errno or 0, "")
        return ": ".join([*filter(None, names), error.strerror.lower()]) + needed
    if isinstance(error, MemoryError):
        from minillm.device_memory import shortage

        short = shortage(error)
        if short is not None:
            subject = f"{command}: " if command else ""
            return (
                f"{subject}out of memory of the GPU, {short}; a smaller model, text or batch is "
                "needed"
            )
        return f"out of memory ({error})" if str(error) else "out of memory"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def _show_warning(message: object, *_: object, **__: object) -> None:
    tell(f"minillm: note: {message}")

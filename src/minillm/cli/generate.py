"""Write text with a trained model."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from minillm.cli.adapted import add_adapter, load
from minillm.cli.damage import named
from minillm.cli.decoding_flags import FLAGS, add_flags, given
from minillm.cli.machine_flags import add_machine, settle
from minillm.cli.main import OK, tell
from minillm.cli.parser import Once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder, .gguf file or pulled name")
    parser.add_argument("--prompt", action=Once, help="text to continue, - to read it from stdin")
    parser.add_argument(
        "--fill-in",
        nargs=2,
        metavar=("PREFIX", "SUFFIX"),
        help="write what belongs between these two, with a model that learnt to fill in",
    )
    parser.add_argument("--chat", action="store_true", help="put the prompt as a chat message")
    parser.add_argument(
        "--control-tokens",
        action="store_true",
        help="control tokens spelled in the prompt count: not for text that a user wrote",
    )
    parser.add_argument("--echo", action="store_true", help="write the prompt before the text")
    add_flags(parser, FLAGS)
    add_adapter(parser)
    add_machine(parser)
    parser.add_argument("--no-cache", action="store_true", help="compute every position each time")
    parser.add_argument("--json", action="store_true", help="print a JSON object when it is done")
    parser.add_argument("--verbose", action="store_true", help="say how fast it was")


def run(arguments: argparse.Namespace) -> int:
    from minillm.cli.written import Written
    from minillm.generation.options import Options

    settle(arguments)
    asked = given(arguments) | {"echo": arguments.echo, "use_cache": not arguments.no_cache}
    _require_one(arguments)
    Options.of(**asked)  # before a model is read
    begin = time.perf_counter()
    model, tokenizer = load(arguments.model, arguments.adapter)
    seconds = time.perf_counter() - begin
    prompt, ids = _read(arguments, model, tokenizer)
    if "draft" in asked:
        asked["draft"] = load(asked["draft"], None)  # and its tokenizer, which has to be the same
    written = Written(model, tokenizer, prompt, Options.of(**asked), arguments.chat, ids)
    models = [arguments.model, *([arguments.draft] if arguments.draft else [])]
    with named("generate", *models):
        if arguments.json:
            written.as_json()
        elif written.options.rows == 1:
            written.streamed()
        else:
            written.listed()
    if arguments.verbose or (sys.stdout.isatty() and sys.stderr.isatty()):
        tell(f"minillm: model loaded in {seconds:.2f} s; {written.speed}")
    return OK


def _require_one(arguments: argparse.Namespace) -> None:
    """ValueError for ways to read a prompt that contradict each other.

    What overflows would take the token that says what is to be filled in along.
    """
    ways = {
        "--fill-in": arguments.fill_in is not None,
        "--prompt": arguments.prompt is not None,
        "--control-tokens": arguments.control_tokens,
        "--chat": arguments.chat,
        f"--overflow {arguments.overflow}": arguments.overflow not in (None, "error"),
    }
    for one, others in (("--fill-in", list(ways)[1:]), ("--control-tokens", ["--chat"])):
        other = next((name for name in others if ways[name]), None)
        if ways[one] and other is not None:
            raise ValueError(
                f"{one[2:]} and {other[2:]}: they contradict each other, one of them is needed"
            )


def _read(
    arguments: argparse.Namespace, model: Any, tokenizer: Any
) -> tuple[str, list[int] | None]:
    """The prompt, and its ids where it is not read as a plain text."""
    if arguments.fill_in is not None:
        from minillm.data.infill import marks_of

        prefix, suffix = arguments.fill_in
        ids = marks_of(tokenizer, "fill-in").asking(
            tokenizer.encode(prefix), tokenizer.encode(suffix)
        )
        return prefix, ids
    prompt = _prompt(arguments, model, tokenizer)
    return prompt, _spelled(model, tokenizer, prompt) if arguments.control_tokens else None


def _prompt(arguments: argparse.Namespace, model: Any, tokenizer: Any) -> str:
    from minillm.cli.texts import decoded
    from minillm.generation.prompts import first_ids

    prompt: str = arguments.prompt or ""
    if prompt == "-":
        prompt = decoded(sys.stdin.buffer.read(), "generate", "the prompt")
    if not prompt and (arguments.chat or not first_ids(tokenizer, prompt)):
        raise ValueError("generate: no prompt given, this model needs one to begin with; --prompt")
    return prompt


def _spelled(model: Any, tokenizer: Any, prompt: str) -> list[int]:
    """The ids of a prompt whose control tokens are meant as such, and what stands before a text."""
    ids: list[int] = tokenizer.encode(prompt, split_special_tokens=False)
    whole: list[int] = tokenizer.around(ids)
    if model.config.kind == "encoder-decoder":
        return whole
    begin = next(k for k in range(len(whole) + 1) if whole[k : k + len(ids)] == ids)
    return whole[: begin + len(ids)]

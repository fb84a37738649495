"""Write text with a trained model."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from minillm.cli.adapted import add_adapter, load
from minillm.cli.damage import named
from minillm.cli.decoding_flags import FLAGS, add_flags, given
from minillm.cli.main import OK, tell
from minillm.cli.parser import Once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder, .gguf file or pulled name")
    parser.add_argument("--prompt", action=Once, help="text to continue, - to read it from stdin")
    parser.add_argument("--chat", action="store_true", help="put the prompt as a chat message")
    parser.add_argument(
        "--control-tokens",
        action="store_true",
        help="control tokens spelled in the prompt count: not for text that a user wrote",
    )
    parser.add_argument("--echo", action="store_true", help="write the prompt before the text")
    add_flags(parser, FLAGS)
    add_adapter(parser)
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the extension")
    parser.add_argument("--no-cache", action="store_true", help="compute every position each time")
    parser.add_argument("--json", action="store_true", help="print a JSON object when it is done")
    parser.add_argument("--verbose", action="store_true", help="say how fast it was")


def run(arguments: argparse.Namespace) -> int:
    from minillm import kernels
    from minillm.cli.written import Written
    from minillm.generation.options import Options

    if arguments.threads is not None:
        kernels.set_threads(arguments.threads)
    asked = given(arguments) | {"echo": arguments.echo, "use_cache": not arguments.no_cache}
    if arguments.control_tokens and arguments.chat:
        raise ValueError(
            "control-tokens: a chat template writes its own, one of --control-tokens and --chat is "
            "needed"
        )
    Options.of(**asked)  # before a model is read
    begin = time.perf_counter()
    model, tokenizer = load(arguments.model, arguments.adapter)
    seconds = time.perf_counter() - begin
    prompt = _prompt(arguments, model, tokenizer)
    if "draft" in asked:
        asked["draft"] = load(asked["draft"], None)  # and its tokenizer, which has to be the same
    ids = _spelled(model, tokenizer, prompt) if arguments.control_tokens else None
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
    """The ids of a prompt whose control tokens are meant as such."""
    from minillm.generation.prompts import prompt_ids

    if model.config.kind == "encoder-decoder":
        ids: list[int] = tokenizer.encode(
            prompt, add_special_tokens=True, split_special_tokens=False
        )
        return ids
    before, _ = prompt_ids(tokenizer, prompt)
    return before + tokenizer.encode(prompt, split_special_tokens=False)

"""Say how probable a text is to a model: per token, perplexity, bits per byte."""

from __future__ import annotations

import argparse
import json
from typing import Any

from minillm.cli.adapted import add_adapter, load
from minillm.cli.damage import named
from minillm.cli.machine_flags import add_machine, settle
from minillm.cli.main import OK, tell
from minillm.cli.parser import Once
from minillm.quantities import counted

SHOWN = 40  # tokens listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="PATH", help="folder, .gguf file or pulled name")
    source = parser.add_mutually_exclusive_group(required=True)
    add = source.add_argument
    add("--text", action=Once, metavar="TEXT", help="the text, - to read it from stdin")
    add("--file", action=Once, metavar="FILE", help="a file of text in UTF-8")
    add_windows(parser)
    add_adapter(parser)
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def add_windows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens of a window (the model's context)"
    )
    parser.add_argument(
        "--stride", type=int, metavar="N", help="tokens from window to window (half a window)"
    )


def run(arguments: argparse.Namespace) -> int:
    from minillm.cli.meter import meter
    from minillm.cli.texts import read_file, read_stdin
    from minillm.generation.scoring import score

    settle(arguments)
    if arguments.file is not None:
        text = read_file("score", arguments.file)
    else:
        text = read_stdin("score") if arguments.text == "-" else arguments.text
    model, tokenizer = load(arguments.model, arguments.adapter)
    with named("score", arguments.model), meter("tokens") as progress:
        found = score(
            model,
            tokenizer,
            text,
            context=arguments.context,
            stride=arguments.stride,
            progress=progress,
        )
    tell_windows(found, model, arguments)
    if arguments.json:
        print(json.dumps(as_json(found), ensure_ascii=False))
    else:
        _show(found)
    return OK


def tell_windows(found: Any, model: Any, arguments: argparse.Namespace) -> None:
    """Say how a text was read that was longer than a window."""
    if found.windows > 1:
        context, stride = arguments.context or model.config.context, arguments.stride
        how = "that overlap by half" if stride is None else f"that begin {stride:,} tokens apart"
        tell(
            f"minillm: note: {len(found.ids):,} tokens are more than the context of {context:,}, "
            f"read in {found.windows:,} windows {how}"
        )


def as_json(found: Any) -> dict[str, Any]:
    return {
        "tokens": [
            {"id": id, "token": token, "log_probability": value}
            for id, token, value in zip(found.ids, found.tokens, found.log_probabilities)
        ],
        "log_probability": found.total,
        "scored": found.scored,
        "bytes": found.bytes,
        "perplexity": found.perplexity,
        "perplexity_error": found.perplexity_error,
        "bits_per_byte": found.bits_per_byte,
        "windows": found.windows,
    }


def _show(found: Any) -> None:
    print(f"{'id':>8}  {'token':<20} log-probability")
    rows = list(zip(found.ids, found.tokens, found.log_probabilities))
    for id, token, value in rows[:SHOWN]:
        shown = "(nothing before it)" if value is None else f"{value:>15.4f}"
        print(f"{id:>8}  {token!r:<20} {shown}")
    if len(rows) > SHOWN:
        print(f"{'...':>8}  {len(rows) - SHOWN:,} more with --json")
    print(f"log-probability {found.total:.4f} of {counted(found.scored, 'token')}")
    error = "" if found.perplexity_error is None else f" +- {found.perplexity_error:.4f}"
    print(f"perplexity      {found.perplexity:.4f}{error}")
    if found.bits_per_byte is not None:
        print(f"bits per byte   {found.bits_per_byte:.4f} ({counted(found.bytes, 'byte')})")

"""Learn a tokenizer from texts."""

from __future__ import annotations

import argparse
from typing import Any

COMMANDS = {  # each a file of this folder, tokenizer_<name>
    "train": "Learn a BPE, WordPiece or Unigram vocabulary, saved as tokenizer.json.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands: Any = parser.add_subparsers(prog=parser.prog, metavar="command", required=True)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.command = f"tokenizer-{name}"
        sub.set_defaults(parser=sub)


def run(arguments: argparse.Namespace) -> int:
    raise AssertionError("a command of its own does the work")

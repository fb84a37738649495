"""Look into texts, and prepare them for training."""

from __future__ import annotations

import argparse
from typing import Any

COMMANDS = {  # each a file of this folder, data_<name>
    "report": "Say what is in texts: languages, lengths, duplicates, encodings, personal data.",
    "prepare": "Clean, deduplicate, filter, split and encode texts: a folder to train from.",
    "show-mask": "Print what a model is to learn of conversations, in colour where a person "
    "watches.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands: Any = parser.add_subparsers(prog=parser.prog, metavar="command", required=True)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.command = f"data-{name}"
        sub.set_defaults(parser=sub)


def run(arguments: argparse.Namespace) -> int:
    raise AssertionError("a command of its own does the work")

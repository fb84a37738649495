"""Fetch a model from the Hugging Face hub (extra: hf)."""

from __future__ import annotations

import argparse
import json

from minillm.cli.main import OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="ORG/NAME", help="name of the model on the hub")
    parser.add_argument("--file", metavar="NAME", help="one of several .gguf files")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit (main)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace) -> int:
    from minillm.formats import hub

    folder = hub.pull(arguments.name, file=arguments.file, revision=arguments.revision)
    print(json.dumps({"path": str(folder)}) if arguments.json else folder)
    return OK

"""Options of commands that read texts as `minillm data` does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minillm.data.reading import Reader


def add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help=".txt, .md, .jsonl, .csv, .tsv, .parquet, also .gz or .zst; folders; - for stdin",
    )
    parser.add_argument("--encoding", default="utf-8", help="encoding of the text (utf-8)")
    parser.add_argument(
        "--errors",
        choices=("strict", "replace"),
        default="strict",
        metavar="strict|replace",
        help="bytes that do not decode (strict)",
    )
    parser.add_argument(
        "--text-field",
        default="text",
        metavar="NAME",
        help="field or column of the text, or a column's number (text)",
    )
    parser.add_argument(
        "--on-bad",
        choices=("stop", "skip"),
        default="stop",
        metavar="stop|skip",
        help="rows without a text: stop, or skip and count",
    )


def reader_of(arguments: argparse.Namespace) -> Reader:
    """What reads files as the options say."""
    from minillm.data.reading import Reader
    from minillm.data.records import Rows
    from minillm.data.text import Decoding

    decoding = Decoding(arguments.encoding, arguments.errors)
    return Reader(decoding, Rows(arguments.text_field, arguments.on_bad))

"""Options of commands that read texts as `minillm data` does."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minillm.data.reading import Reader


def add_reading(
    parser: argparse.ArgumentParser, encoding: str | None = "utf-8", errors: str = "strict"
) -> None:
    """The files and how they are read; an `encoding` of None: each file's own is found out."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help=".txt, .md, .jsonl, .csv, .tsv, .parquet, also .gz or .zst; folders; - for stdin",
    )
    parser.add_argument(
        "--encoding",
        default=encoding,
        help=f"encoding of the text ({encoding or 'found out for each file'})",
    )
    parser.add_argument(
        "--errors",
        choices=("strict", "replace"),
        default=errors,
        metavar="strict|replace",
        help=f"bytes that do not decode ({errors})",
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

    decoding = Decoding(arguments.encoding or "utf-8", arguments.errors)
    return Reader(decoding, Rows(arguments.text_field, arguments.on_bad))

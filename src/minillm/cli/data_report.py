"""Say what is in texts: languages, lengths, duplicates, encodings, personal data, quality."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minillm.cli.main import OK, tell
from minillm.cli.meter import meter
from minillm.cli.reading_flags import add_reading, reader_of
from minillm.quantities import counted

if TYPE_CHECKING:
    from minillm.data.sources import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_reading(parser, encoding=None, errors="replace")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument("--html", metavar="FILE", help="write a page that opens in a browser")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one for each core)")


def run(arguments: argparse.Namespace) -> int:
    from minillm.data.preparation.survey import survey
    from minillm.data.sources import find
    from minillm.formats.files import atomic_write_text

    workers = os.cpu_count() or 1 if arguments.workers is None else arguments.workers
    if workers < 1:
        raise ValueError(f"workers: {workers}, 1 or more is needed")
    if not arguments.files:
        raise ValueError("report: no file given, at least 1 is needed (or - for stdin)")
    if arguments.html == "":
        raise ValueError("html: an empty name given, a path is needed")
    reader = reader_of(arguments)
    sources = find(arguments.files).files
    if arguments.html is not None:
        _keep_texts(arguments.html, sources)
    files = reader.recognise(sources)
    found = survey(files, reader, arguments.encoding, workers, meter)
    if arguments.html is not None:
        from minillm.cli.data_page import page

        atomic_write_text(arguments.html, page(found))
        tell(f"wrote {arguments.html}")
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    elif arguments.html is None:
        sys.stdout.write("\n".join(_lines(found)) + "\n")
    return OK


def _keep_texts(page: str, sources: Sequence[Source]) -> None:
    """ValueError where the page would be written over one of the texts."""
    for source in sources:
        if os.path.exists(page) and os.path.samefile(page, source.path):
            raise ValueError(f"html: {page} is one of the texts, another name is needed")


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The findings in words; what did not happen is not mentioned."""
    yield (
        f"{counted(len(found['files']), 'file')}, {counted(found['documents'], 'document')}, "
        f"{counted(found['lines'], 'line')}, {counted(found['words'], 'word')}, "
        f"{counted(found['characters'], 'character')}"
    )
    for of in found["files"]:
        if of["note"]:
            yield f"{of['name']}: {of['encoding']} ({of['note']})"
        if of["first bad row"]:
            bad = counted(of["bad rows"], "bad row")
            yield f"{of['name']}: {bad}, the first: {of['first bad row']}"
    total = sum(found["languages"].values()) or 1
    shares = [f"{name} {value / total:.1%}" for name, value in found["languages"].items()]
    yield f"languages    {', '.join(shares[:8])}"
    lengths = dict(found["lengths"])
    histogram = lengths.pop("histogram")
    yield f"lengths      {', '.join(f'{name} {value:,}' for name, value in lengths.items())}"
    most = max(bar["documents"] for bar in histogram)
    for bar in histogram:
        width = round(30 * bar["documents"] / most)
        yield f"  to {bar['up to']:>13,}  {bar['documents']:>11,}  {'#' * width}"
    for name, of in found["duplicates"].items():
        texts, characters = counted(of["texts"], "text"), counted(of["characters"], "character")
        yield f"duplicates   {name}: {texts}, {characters}"
    for group, label in (("characters and lines", "found"), ("personal data", "personal")):
        pairs = [f"{name} {value:,}" for name, value in found[group].items() if value]
        if pairs:
            yield f"{label:12} {', '.join(pairs)}"
    yield f"quality      {found['quality']['mean']:.1%} of ten rules kept on average"
    for name, value in found["quality"]["texts that break a rule"].items():
        if value:
            yield f"  {counted(value, 'text')} not so: {name}"
    for line in found["frequent lines"]:
        yield f"{line['times']:>11,} times  {line['line']}"

"""A suite: what is measured of a model, in one TOML file.

[[measure]]
name = "news"              # the kind and the file if it is left out
kind = "perplexity"
data = ["news.txt"]        # beside the suite, one file or several
stride = 256
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minillm.data.tables import POLICIES
from minillm.tasks.choice import Choice
from minillm.tasks.evaluation import Measure, of_encoder
from minillm.tasks.perplexity import Perplexity
from minillm.tasks.recommendation import NextItem
from minillm.tasks.summaries import Summaries
from minillm.tasks.translation.evaluation import Translation
from minillm.tasks.written_answers import WrittenAnswers
from minillm.words import meant

WHOLE, TEXT, TRUTH, TEXTS, TABLE = "a whole number", "a text", "true or false", "texts", "a table"
ENCODERS = ("classify", "tag", "qa", "embed")
OPTIONS: dict[str, dict[str, str]] = {  # by kind: its own keys, and what they hold
    "perplexity": {"context": WHOLE, "stride": WHOLE, "bos": TEXT},
    "choice": {"prompt": TEXT},
    "answer": {"prompt": TEXT, "expect": TEXT, "max-tokens": WHOLE, "stop": TEXTS, "chat": TRUTH},
    "recommend": {},
    "summarize": {"instruction": TEXT, "max-tokens": WHOLE},
    "translate": {},
    **{kind: {"max-length": WHOLE} for kind in ENCODERS},
}
COMMON = {
    "name": TEXT,
    "kind": TEXT,
    "data": TEXTS,
    "last": WHOLE,
    "columns": TABLE,
    "on-bad": TEXT,
}


class Entry(NamedTuple):
    """One measure of a suite, and the examples that it is of."""

    name: str
    measure: Measure
    paths: list[str]
    columns: dict[str, str]
    on_bad: str
    last: int | None


def read(path: str) -> list[Entry]:
    """The measures of a suite in their order; one line of ValueError names file, place and key."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"suite: {path}: not valid TOML ({error})") from error
    for key in content:
        if key != "measure":
            raise ValueError(f"suite: {path}: unknown key {key!r}{meant(key, ['measure'])}")
    rows = content.get("measure")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"suite: {path}: no [[measure]], at least 1 is needed")
    found: list[Entry] = []
    for number, row in enumerate(rows, 1):
        try:
            entry = _entry(row, Path(path).parent)
            if entry.name in [one.name for one in found]:
                raise ValueError(f"name: {entry.name!r} a second time, another is needed")
        except (ValueError, TypeError) as error:
            raise ValueError(f"suite: {path}: measure {number}: {error}") from error
        found.append(entry)
    return found


def _entry(row: Mapping[str, Any], folder: Path) -> Entry:
    kind = row.get("kind")
    if kind is None:
        raise ValueError(f"kind: missing, one of {', '.join(OPTIONS)} is needed")
    if not isinstance(kind, str) or kind not in OPTIONS:
        raise ValueError(f"kind: {kind!r}{meant(str(kind), OPTIONS)}")
    known = COMMON | OPTIONS[kind]
    for key, value in row.items():
        if key not in known:
            raise ValueError(f"unknown key {key!r}{meant(key, known)}")
        if not _holds(value, known[key]):
            raise ValueError(f"{key}: {value!r}, {known[key]} is needed")
    data = row.get("data", [])
    paths = [str(folder / name) for name in ([data] if isinstance(data, str) else data)]
    if not paths:
        raise ValueError("data: missing, a file or several are needed")
    on_bad = row.get("on-bad", "stop")
    if on_bad not in POLICIES:
        raise ValueError(f"on-bad: {on_bad!r}, one of {', '.join(POLICIES)} is needed")
    own = {key.replace("-", "_"): value for key, value in row.items() if key in OPTIONS[kind]}
    if isinstance(own.get("stop"), str):
        own["stop"] = [own["stop"]]
    name = row.get("name") or f"{kind} {Path(paths[0]).name}"
    columns = row.get("columns", {})
    return Entry(name, make(kind, **own), paths, columns, on_bad, row.get("last"))


def _holds(value: Any, what: str) -> bool:
    match what:
        case "a whole number":
            return type(value) is int and value >= 1
        case "a text":
            return isinstance(value, str)
        case "true or false":
            return isinstance(value, bool)
        case "a table":
            return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(one, str) for one in value)
    )


def make(kind: str, **options: Any) -> Measure:
    """The measure of a kind with its own options."""
    match kind:
        case "perplexity":
            return Perplexity(**options)
        case "choice":
            return Choice(**options)
        case "answer":
            return WrittenAnswers(**options)
        case "recommend":
            return NextItem()
        case "summarize":
            return Summaries(**options)
        case "translate":
            return Translation()
    return of_encoder(kind, **options)

"""Rows of labelled data: .tsv, .csv and .jsonl files, plain or gzip, and what is wrong in them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from minillm.data import sources
from minillm.data.text import Decoding, Repairs, decode, refuse_binary
from minillm.quantities import counted

POLICIES = ("stop", "skip")
SUFFIXES = (".tsv", ".csv", ".jsonl")
NAME = re.compile(r"[^\W\d][\w.-]*")


class Row(NamedTuple):
    """Fields under the names they are asked for, and the line (from 1) where they begin."""

    line: int
    fields: Mapping[str, Any]


class Faults:
    """Rows that cannot be used: the first one ends the reading, or all are skipped and counted."""

    def __init__(self, name: str, policy: str = "stop") -> None:
        if policy not in POLICIES:
            raise ValueError(f"on-bad: {policy!r}, one of {', '.join(POLICIES)} is needed")
        self.name, self.policy = name, policy
        self.kinds: Counter[str] = Counter()
        self.first: dict[str, int] = {}

    def found(self, line: int, kind: str, detail: str, needed: str) -> None:
        """ValueError naming the line where the policy is to stop; else it is counted."""
        if self.policy == "stop":
            raise ValueError(
                f"read: {self.name} line {line}: {detail}, {needed} is needed; "
                "or pass over such rows with --on-bad skip"
            )
        self.kinds[kind] += 1
        self.first.setdefault(kind, line)

    def __len__(self) -> int:
        return self.kinds.total()

    def __str__(self) -> str:
        """`skipped 3 rows of x.tsv: 2 with an empty text (first in line 7), 1 ...`."""
        told = [f"{n} with {kind} (first in line {self.first[kind]})" for kind, n in self]
        return f"skipped {counted(len(self), 'row')} of {self.name}: {', '.join(told)}"

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self.kinds.most_common())


def columns_of(text: str | None) -> dict[str, str]:
    """text=review,label=stars as a dict; ValueError for anything else."""
    found: dict[str, str] = {}
    for part in text.split(",") if text is not None else []:
        name, is_there, column = (piece.strip() for piece in part.partition("="))
        if not (name and is_there and column) or name in found:
            raise ValueError(
                f"columns: {text!r}, pairs such as text=review,label=stars are needed, each once"
            )
        found[name] = column
    return found


def require_known(columns: Mapping[str, str], known: Sequence[str]) -> None:
    """ValueError for columns of a field that nothing asks for."""
    for name in columns:
        if name not in known:
            raise ValueError(
                f"columns: no field {name!r}, some of {', '.join(sorted(known))} are needed"
            )


def text_of(path: str) -> tuple[str, sources.Source]:
    """The whole text of one file or of standard input ("-"), in UTF-8, its line ends LF."""
    found = sources.find(path).files
    if len(found) != 1:
        raise ValueError(f"read: {path} holds {len(found)} files, one file is needed")
    decoding = Decoding(chosen=False)
    chunks = refuse_binary(found[0].chunks(), decoding, found[0].name)
    return "".join(decode(chunks, decoding, found[0].name, Repairs())), found[0]


def kind_of(source: sources.Source) -> str:
    """`.tsv`, `.csv` or `.jsonl`, from the name; "" for another."""
    suffixes = [suffix.lower() for suffix in source.path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else ""


def read_rows(
    path: str,
    wanted: Sequence[str],
    columns: Mapping[str, str],
    faults: Faults,
    optional: Sequence[str] = (),
) -> tuple[list[Row], list[str]]:
    """The rows of a file with the fields `wanted`, and notices about how it was read.

    `columns` says what a field is called in the file where it has another name. A table has the
    names in its first line; without them it must have exactly the wanted columns, in their order,
    or `columns` has their numbers, from 1.
    Raises ValueError for missing columns, naming those present, and for bad rows as `faults` asks.
    """
    require_known(columns, (*wanted, *optional))
    text, source = text_of(path)
    kind = kind_of(source)
    if not kind:
        raise ValueError(
            f"read: {source.name} is no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file by its "
            "name, one of them is needed"
        )
    names = {field: columns.get(field, field) for field in (*wanted, *optional)}
    if kind == ".jsonl":
        return list(_objects(text, source.name, wanted, names, faults)), []
    table = _separated(text) if kind == ".tsv" else _quoted(text, source.name)
    return _table(list(table), source.name, wanted, names, faults, given=bool(columns))


def _objects(
    text: str, name: str, wanted: Sequence[str], names: Mapping[str, str], faults: Faults
) -> Iterator[Row]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            faults.found(line, "no JSON", f"no JSON ({error})", "an object")
            continue
        if not isinstance(found, dict):
            faults.found(line, "no object", f"{content.strip()[:40]} is no object", "an object")
            continue
        missing = [names[field] for field in wanted if names[field] not in found]
        if missing:
            present = ", ".join(map(repr, found)) or "no fields"
            detail = f"no field {missing[0]!r} but {present}"
            faults.found(line, f"no field {missing[0]!r}", detail, "it")
            continue
        yield Row(line, {field: found[key] for field, key in names.items() if key in found})


def _separated(text: str) -> Iterator[tuple[int, list[str]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if content.strip():
            yield line, content.split("\t")


def _quoted(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"read: {name} line {line}: {error}, a whole CSV record is needed"
        ) from error


def _names(table: list[tuple[int, list[str]]]) -> bool:
    """Whether the first line seems to name columns: words that no row has in its place."""
    (_, first), *rows = table
    words = all(NAME.fullmatch(cell.strip()) for cell in first) and len(set(first)) == len(first)
    later = [set(cells) for cells in zip(*(cells for _, cells in rows))]
    return words and len(rows) > 1 and not any(c in seen for c, seen in zip(first, later))


def _table(
    table: list[tuple[int, list[str]]],
    name: str,
    wanted: Sequence[str],
    names: Mapping[str, str],
    faults: Faults,
    given: bool,
) -> tuple[list[Row], list[str]]:
    if not table:
        raise ValueError(f"read: {name} has no rows, at least 1 is needed")
    header = [cell.strip() for cell in table[0][1]]
    notices, shown = [], ", ".join(repr(cell[:40]) for cell in header[:8])
    numbers = [str(place) for place in range(1, len(header) + 1)]
    if all(names[field] in numbers and names[field] not in header for field in wanted):
        header = numbers
        if _names(table):
            notices.append(f"{name}: columns by number, so that its first line {shown} is a row")
    elif all(names[field] in header for field in wanted):
        table = table[1:]
    elif given or len(header) != len(wanted) or _names(table):
        missing = " and ".join(repr(names[f]) for f in wanted if names[f] not in header)
        raise ValueError(
            f"read: {name} has {counted(len(header), 'column')} {shown}, but none named {missing}; "
            f"name them with --columns, such as {wanted[0]}={header[0][:20]}, or by number, "
            f"{wanted[0]}=1, where the first line is a row"
        )
    else:
        header = [names[field] for field in wanted]
        notices.append(f"{name}: no names in the first line, read as {', '.join(header)}")
    places = {field: header.index(key) for field, key in names.items() if key in header}
    rows = []
    for line, cells in table:
        if len(cells) != len(header):
            detail = counted(len(cells), "column")
            faults.found(line, "another number of columns", detail, f"a row of {len(header)}")
            continue
        rows.append(Row(line, {field: cells[place] for field, place in places.items()}))
    return rows, notices

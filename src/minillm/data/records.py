"""Rows that are a document each: JSON lines, here; `tabular` has those of tables.

A JSON line is an object with a text field or a bare string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .text import REPLACEMENT, Decoding, Repairs

RECORD_LIMIT = 1 << 28
POLICIES = ("stop", "skip")
TEXT_FIELD = "text"
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_JSON_SPACE = " \t\r\n"
_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


@dataclass(frozen=True)
class Rows:
    """`text_field` names the field or column that holds the text; `on_bad` says whether to "stop"
    at a row without a text or to "skip" and count it.
    """

    text_field: str = TEXT_FIELD
    on_bad: str = "stop"

    def __post_init__(self) -> None:
        if self.on_bad not in POLICIES:
            raise ValueError(f"read: on_bad is {self.on_bad!r}, 'stop' or 'skip' is needed")

    def bad(self, error: ValueError, repairs: Repairs) -> None:
        """Count the row that `error` tells of, or raise it."""
        if self.on_bad == "stop":
            raise error
        repairs.bad_rows += 1
        repairs.first_bad_row = repairs.first_bad_row or str(error).removeprefix("read: ")


def records(
    pieces: Iterable[str],
    decoding: Decoding,
    name: str,
    rows: Rows,
    repairs: Repairs,
    where: tuple[str, str] | None = None,
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of each non-empty line, or of those where a field has a
    value.

    Line ends inside the texts follow `decoding`. At most one record is held, twice over while it
    is parsed. Raises ValueError naming file, line and what was found instead of a text.
    """
    for number, line in enumerate(lines(pieces, name), 1):
        line = line.strip(_JSON_SPACE)
        if not line:
            continue
        place = f"read: {name} line {number}"
        try:
            record = _parsed(line, place)
            if where is not None and _text_of(record, place, where[0], "where") != where[1]:
                continue
            text = _text_of(record, place, rows.text_field)
            text = cleaned(text, decoding, place, repairs)
        except ValueError as error:
            rows.bad(error, repairs)
            continue
        del line
        yield number, text


def looks_like_records(first_line: str, text_field: str) -> bool:
    """Whether a line is a whole JSON object with a text in `text_field`."""
    if not first_line.startswith("{"):
        return False
    try:
        found = json.loads(first_line)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and isinstance(found.get(text_field), str)


def lines(pieces: Iterable[str], name: str) -> Iterator[str]:
    """The lines of a text, one held at a time; ValueError for one beyond RECORD_LIMIT."""
    parts: list[str] = []
    held = number = 0
    for piece in pieces:
        *ended, rest = piece.split("\n")
        for end in ended:
            parts.append(end)
            parts = ["".join(parts)]
            number += 1
            held = 0
            yield parts.pop()
        parts.append(rest)
        held += len(rest)
        if held > RECORD_LIMIT:
            raise ValueError(
                f"read: {name} line {number + 1} is longer than {RECORD_LIMIT:,} "
                "characters, shorter records are needed; a text of that size can be "
                "a .txt file"
            )
    yield "".join(parts)


def _parsed(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place} is not JSON ({error.msg} at column {error.colno}), one object "
            "or string a line is needed"
        ) from error
    except RecursionError as error:
        raise ValueError(
            f"{place} is nested too deeply, one object or string a line is needed"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{place} cannot be read ({error}), one object or string a line is needed"
        ) from error


def _text_of(record: Any, place: str, text_field: str, flag: str = "--text-field") -> str:
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise ValueError(
            f"{place} is {_KINDS[type(record)]}, an object with a field "
            f"{text_field!r} or a string is needed"
        )
    if text_field not in record:
        fields = ", ".join(repr(key) for key in list(record)[:5]) or "no fields"
        raise ValueError(
            f"{place} has no field {text_field!r} but {fields}, a text is needed; "
            f"name the field with {flag}"
        )
    text = record[text_field]
    if not isinstance(text, str):
        raise ValueError(
            f"{place}: field {text_field!r} is {_KINDS[type(text)]}, a string is needed"
        )
    return text


def cleaned(text: str, decoding: Decoding, place: str, repairs: Repairs) -> str:
    """The text of a row, its halves of pairs and line ends dealt with as `decoding` says."""
    if not text.isascii() and (half := _HALF_PAIR.search(text)):
        if decoding.errors == "strict":
            raise ValueError(
                f"{place}: U+{ord(half[0]):04X} at character {half.start()} is half "
                "a surrogate pair, whole characters are needed; pass --errors replace"
            )
        text, count = _HALF_PAIR.subn(REPLACEMENT, text)
        repairs.replacements += count
    if not decoding.keep_newlines and "\r" in text:
        repairs.newlines += text.count("\r")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text

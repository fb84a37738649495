"""The regular expressions of tokenizer.json, said in terms of Python's `re`.

They are written for Oniguruma. `re` has no \\p{L} and its \\s and \\d are other sets, so classes
are spelled out from the frozen tables. What is not known to mean the same in both is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from .reading import Unsupported
from .unicode_classes import (
    DIGITS,
    LETTERS,
    MARKS,
    NUMBERS,
    PUNCTUATION,
    WHITE_SPACE,
    last_point,
    ranges,
)

Bounds = list[tuple[int, int]]

_LAST = 0x10FFFF
_TABLES = {"L": LETTERS, "N": NUMBERS, "M": MARKS, "P": PUNCTUATION, "Nd": DIGITS}
_CONTROLS = {"r": "\r", "n": "\n", "t": "\t", "f": "\f"}
_ENDS = {r"\A": r"\A", r"\z": r"\Z"}
_GROUPS = ("(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!")
_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!")
_QUANTIFIER = re.compile(r"[*+?][+?]?|\{\d+(?:,\d*)?\}\??(?!\+)")
_PROPERTY = re.compile(r"([pP])\{(\^?)(\w+)\}")


class Pattern:
    """A regular expression of a tokenizer; `Unsupported` where `re` cannot say the same."""

    def __init__(self, source: str) -> None:
        self.source = source
        if compiled(source, _LAST, False).fullmatch("") is not None:
            raise Unsupported(f"regular expression {source!r} that can match nothing")
        compiled(source, _LAST)

    def of(self, text: str) -> re.Pattern[str]:
        """The pattern for `text`."""
        return compiled(self.source, last_point(text))

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of each match, from left to right."""
        return (match.span() for match in self.of(text).finditer(text))


@lru_cache(maxsize=64)
def compiled(source: str, last: int, lookaround: bool = True) -> re.Pattern[str]:
    """`source` for text of code points up to `last`; lookaround may be left out of it."""
    try:
        return re.compile("".join(_Translation(source, last, lookaround)))
    except (re.error, RecursionError, OverflowError):
        raise Unsupported(f"regular expression {source!r}") from None


class _Translation:
    """Iterating gives the parts of the pattern for `re`."""

    def __init__(self, source: str, last: int, lookaround: bool) -> None:
        self._source, self._last, self._lookaround = source, last, lookaround
        self._at = 0

    def __iter__(self) -> Iterator[str]:
        open_groups: list[str] = []
        while self._at < len(self._source):
            group = self._group()
            if group:
                open_groups.append(group)
            elif self._source[self._at] == ")" and open_groups:
                self._at += 1
                group = open_groups.pop()
                yield "|)" if group in _LOOKAROUND and not self._lookaround else ")"
                yield self._quantifier() if group not in _LOOKAROUND else ""
                continue
            elif self._source[self._at] == "|":
                self._at += 1
                group = "|"
            if group:
                dropped = group in _LOOKAROUND and not self._lookaround
                yield "(?:" if dropped else group
                continue
            yield self._one("(?i:" in open_groups)
            yield self._quantifier()
        if open_groups:
            raise self._unsupported()

    def _group(self) -> str:
        """The opening of a group, if one begins here; none captures afterwards."""
        if self._source[self._at] != "(":
            return ""
        known = [group for group in _GROUPS if self._source.startswith(group, self._at)]
        if not known and self._source.startswith("(?", self._at):
            raise self._unsupported()
        self._at += len(known[0]) if known else 1
        return known[0] if known else "(?:"

    def _quantifier(self) -> str:
        found = _QUANTIFIER.match(self._source, self._at)
        if found:
            self._at = found.end()
            return found.group()
        return ""

    def _one(self, ignoring_case: bool) -> str:
        """What matches one character, or an end of the text."""
        character = self._source[self._at]
        end = _ENDS.get(self._source[self._at : self._at + 2])
        if end:
            self._at += 2
            return end
        if character == "[":
            self._at += 1
            bounds, negated = self._set()
        elif character == "\\":
            bounds, negated = self._escape()
        elif character == ".":
            self._at += 1
            bounds, negated = [(10, 10)], True
        elif character in "*+?{}()^$]":
            raise self._unsupported()
        else:
            self._at += 1
            return re.escape(character)
        if ignoring_case:
            raise self._unsupported()
        if len(bounds) == 1 and bounds[0][0] == bounds[0][1] and not negated:
            return re.escape(chr(bounds[0][0]))
        return self._spelled(bounds, negated)

    def _set(self) -> tuple[Bounds, bool]:
        """The members of [...], whose bracket has been read."""
        negated = self._source.startswith("^", self._at)
        self._at += negated
        members: Bounds = []
        while not self._source.startswith("]", self._at):
            if self._source.startswith(("[", "&&", "-"), self._at):
                raise self._unsupported()
            member = self._member()
            if self._source.startswith("-", self._at) and not self._source.startswith(
                "-]", self._at
            ):
                self._at += 1
                end = self._member()
                if len(member) != 1 or len(end) != 1 or member[0][0] > end[0][1]:
                    raise self._unsupported()
                member = [(member[0][0], end[0][1])]
            elif self._source.startswith("-]", self._at):
                self._at += 1
                member = [*member, (45, 45)]
            members += member
        self._at += 1
        if not members:
            raise self._unsupported()
        return members, negated

    def _member(self) -> Bounds:
        if self._at >= len(self._source) or self._source[self._at] in "[":
            raise self._unsupported()
        if self._source[self._at] == "\\":
            bounds, negated = self._escape()
            return _complement(bounds) if negated else bounds
        point = ord(self._source[self._at])
        self._at += 1
        return [(point, point)]

    def _escape(self) -> tuple[Bounds, bool]:
        """What a backslash and its character mean, and whether it is the opposite of that."""
        character = self._source[self._at + 1 : self._at + 2]
        found = _PROPERTY.match(self._source, self._at + 1)
        if found and found.group(3) in _TABLES:
            self._at = found.end()
            return ranges(_TABLES[found.group(3)]), (found.group(1) == "P") != bool(found.group(2))
        self._at += 2
        if character in ("s", "S"):
            return [(ord(space), ord(space)) for space in WHITE_SPACE], character == "S"
        if character in ("d", "D"):
            return ranges(DIGITS), character == "D"
        if character in _CONTROLS:
            character = _CONTROLS[character]
        elif not character or not character.isascii() or character.isalnum():
            raise self._unsupported()
        return [(ord(character), ord(character))], False

    def _spelled(self, bounds: Bounds, negated: bool) -> str:
        inside = "".join(
            f"{re.escape(chr(low))}-{re.escape(chr(min(high, self._last)))}"
            for low, high in bounds
            if low <= self._last
        )
        if not inside:
            return "(?:(?s:.))" if negated else "(?!)"
        return f"[{'^' if negated else ''}{inside}]"

    def _unsupported(self) -> Unsupported:
        return Unsupported(f"regular expression {self._source!r} at position {self._at}")


def _complement(bounds: Bounds) -> Bounds:
    gaps, start = [], 0
    for low, high in sorted(bounds):
        if start < low:
            gaps.append((start, low - 1))
        start = max(start, high + 1)
    return [*gaps, (start, _LAST)] if start <= _LAST else gaps

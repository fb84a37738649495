"""Lines counted, measured and recognised again, whatever their length and number.

A line is kept as one 64-bit number, the sum over its characters of (code + 1) times a fixed random
weight of the character's place: it adds up over pieces of a line, so no line is ever held whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

LINES_REMEMBERED = 1 << 21  # 16 MB; later lines are still compared with these
_BLOCK = 1 << 14
_NEWLINE = 10


@dataclass(frozen=True)
class Lines:
    """Complete lines: `hashes` uint64, `lengths` in characters, `inked` without white space."""

    hashes: np.ndarray
    lengths: np.ndarray
    inked: np.ndarray


def ended(documents: Iterable[Iterable[str]]) -> Iterator[str]:
    """The pieces of all documents, with a line end after a document that lacks one."""
    for pieces in documents:
        last = ""
        for last in pieces:
            yield last
        if last and last[-1] != "\n":
            yield "\n"


def blocks_of(pieces: Iterable[str]) -> Iterator[np.ndarray]:
    """The same text as code points, uint32, in blocks of one size: few and yet small arrays."""
    held: list[str] = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length < _BLOCK:
            continue
        text = "".join(held)
        for start in range(0, length - _BLOCK + 1, _BLOCK):
            yield codes_of(text[start : start + _BLOCK])
        held = [text[length - length % _BLOCK :]]
        length = len(held[0])
    if length:
        yield codes_of("".join(held))


def lines_of(documents: Iterable[Iterable[str]]) -> Iterator[Lines]:
    """The lines of all documents, some at a time; a document's end ends a line."""
    reader = LineReader()
    return map(reader.feed, blocks_of(ended(documents)))


class LineReader:
    """Takes a text as code points, in pieces of any size, and gives back the lines each ends."""

    def __init__(self) -> None:
        self._open = (0, 0, 0)  # hash, length and ink of the line begun but not ended

    def feed(self, codes: np.ndarray) -> Lines:
        """The lines that end inside `codes` (n,) uint32."""
        ends = np.flatnonzero(codes == _NEWLINE)
        starts = np.concatenate(([0], ends + 1))
        lengths = np.diff(starts, append=len(codes))
        places = np.arange(len(codes)) - np.repeat(starts, lengths)
        places[: lengths[0]] += self._open[1]
        terms = weights(places) * (codes + np.uint64(1))
        terms[ends] = 0
        hashes, inked = sums(terms, starts, lengths), sums(~is_space(codes), starts, lengths)
        hashes[:1] += np.uint64(self._open[0])  # wraps; as a scalar it would warn
        inked[0] += self._open[2]
        lengths[0] += self._open[1]
        self._open = int(hashes[-1]), int(lengths[-1]), int(inked[-1])
        return Lines(hashes[:-1], lengths[:-1] - 1, inked[:-1])


class SeenLines:
    """Remembers up to `limit` distinct lines and tells which came before."""

    def __init__(self, limit: int = LINES_REMEMBERED) -> None:
        self._limit = limit
        self._hashes = np.empty(0, np.uint64)  # sorted

    @property
    def full(self) -> bool:
        return len(self._hashes) >= self._limit

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Which of `hashes` are remembered."""
        return found_in(self._hashes, hashes)[0]

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Remember `hashes`; returns which of them had come before, here or earlier."""
        unique, first = np.unique(hashes, return_index=True)
        new = ~self.contains(unique)
        repeated = np.ones(len(hashes), bool)
        repeated[first[new]] = False
        room = self._limit - len(self._hashes)
        fresh = unique[new] if room >= int(new.sum()) else hashes[np.sort(first[new])[:room]]
        if len(fresh):
            self._hashes = np.sort(np.concatenate((self._hashes, fresh)), kind="stable")
        return repeated


def found_in(ordered: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of `hashes` are in `ordered` (sorted, distinct), and the place of each that is."""
    places = np.searchsorted(ordered, hashes)
    inside = places < len(ordered)
    inside[inside] = ordered[places[inside]] == hashes[inside]
    return inside, places[inside]


def codes_of(text: str) -> np.ndarray:
    """The code points of a text, uint32."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def sums(terms: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum of each run of `terms`; reduceat alone would give an empty run its neighbour's value."""
    kind = terms.dtype if terms.dtype == np.uint64 else np.int64
    out = np.zeros(len(starts), kind)
    filled = lengths > 0
    out[filled] = np.add.reduceat(terms, starts[filled], dtype=kind)
    return out


def weights(places: np.ndarray) -> np.ndarray:
    """A fixed random 64-bit number for each place in a line (the splitmix64 finaliser)."""
    x = (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@cache
def _space_table() -> np.ndarray:
    table = np.zeros(0x3002, bool)  # the last white space is U+3000; the last entry is for the rest
    table[[code for code in range(0x3001) if chr(code).isspace()]] = True
    return table


def is_space(codes: np.ndarray) -> np.ndarray:
    """Which code points are white space."""
    table = _space_table()
    return table[np.minimum(codes, len(table) - 1)]

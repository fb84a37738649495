"""Arrays of strings in GGUF files, tens of thousands in a vocabulary, read in a few passes.

Each string stands behind its length in eight bytes. Where all are short and none holds a NUL, the
zeros of the array are the upper seven bytes of the lengths, seven for each string.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy

from minillm.arrays import Array

ZEROS = 7  # in the length of a string of 1 to 255 bytes
USUAL, MOST = 24, 263  # bytes of a string with its length


class Strings(Sequence[str]):
    """Strings in UTF-8 one after the other, each made when it is asked for; equal to a list.

    `data` are their bytes, a NUL before each, and no other.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def packed(self) -> Array:
        """The bytes as an array (n,) uint8."""
        return numpy.frombuffer(self.data, numpy.uint8)

    @cached_property
    def starts(self) -> Array:
        """Where each string begins in `data`, and one more begins that is not there: int64."""
        return numpy.append(numpy.flatnonzero(self.packed == 0) + 1, len(self.data) + 1)

    @cached_property
    def _places(self) -> memoryview:
        return self.starts.data  # whose elements are Python's integers

    def __len__(self) -> int:
        return len(self._places) - 1

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self[place] for place in range(*key.indices(len(self)))]
        place = range(len(self))[key]
        return self.data[self._places[place] : self._places[place + 1] - 1].decode("utf-8")

    def tolist(self) -> list[str]:
        return self.data.decode("utf-8").split("\0")[1:]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | Strings):
            return NotImplemented
        return self.tolist() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.tolist())


def short_strings(data: mmap.mmap, at: int, count: int) -> tuple[Strings, int] | None:
    """`count` strings from `at` on, and where they end; None unless all are short, whole and UTF-8.

    Short are 1 to 255 bytes without NUL. Each length must lead to the next, as if they were read
    one after the other.
    """
    left, window = min(len(data) - at, MOST * count), USUAL * count
    while count:
        region = numpy.frombuffer(data, numpy.uint8, min(window, left), at)
        zeros = numpy.flatnonzero(region == 0)[: ZEROS * count]
        if zeros.size == ZEROS * count:
            headers = zeros[::ZEROS] - 1
            if headers[0] or (zeros[ZEROS - 1 :: ZEROS] - headers != ZEROS).any():
                return None
            ends = headers + ZEROS + 1 + region[headers]
            if not numpy.array_equal(headers[1:], ends[:-1]):
                return None
            end = int(ends[-1])
            if end <= region.size:
                found = _packed(region[:end].copy(), headers, zeros)
                return (found, at + end) if found is not None and len(found) == count else None
        if window >= left:
            return None
        window *= 2
    return None


def _packed(region: Array, headers: Array, zeros: Array) -> Strings | None:
    """The strings of `region`, which is overwritten: a NUL before each is what is left of it."""
    kept = numpy.ones(region.size, bool)
    kept[zeros] = False
    region[headers] = 0
    data = region[kept].tobytes()
    try:
        data.decode("utf-8")  # no character reaches across a NUL
    except UnicodeDecodeError:
        return None
    return Strings(data)

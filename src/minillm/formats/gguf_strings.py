"""Arrays of strings in GGUF files, tens of thousands in a vocabulary, split in a few passes.

Each string stands behind its length in eight bytes. Where all are short and none holds a NUL, the
zeros of the array are the upper seven bytes of the lengths, seven for each string.
"""

from __future__ import annotations

import mmap

import numpy

from minillm.arrays import Array

ZEROS = 7  # in the length of a string of 1 to 255 bytes
USUAL, MOST = 24, 263  # bytes of a string with its length


def short_strings(data: mmap.mmap, at: int, count: int) -> tuple[list[str], int] | None:
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
                found = _split(region[:end].copy(), headers, zeros)
                return (found, at + end) if found is not None and len(found) == count else None
        if window >= left:
            return None
        window *= 2
    return None


def _split(region: Array, headers: Array, zeros: Array) -> list[str] | None:
    """The strings of `region`, which is overwritten: a NUL before each is what is left of it."""
    kept = numpy.ones(region.size, bool)
    kept[zeros] = False
    region[headers] = 0
    try:
        return region[kept].tobytes()[1:].decode("utf-8").split("\0")
    except UnicodeDecodeError:
        return None

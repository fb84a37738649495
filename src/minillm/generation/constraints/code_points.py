"""Sets of characters as ranges of code points, and the bytes of UTF-8 they are spelled with."""

from __future__ import annotations

from collections.abc import Iterable

Ranges = tuple[tuple[int, int], ...]  # inclusive, ascending, apart from each other, no surrogates

LAST = 0x10FFFF
ANY: Ranges = ((0, 0xD7FF), (0xE000, LAST))
_LENGTHS = (  # code points of one length: first, last, tail bytes, mark of the lead byte
    (0x0, 0x7F, 0, 0x00),
    (0x80, 0x7FF, 1, 0xC0),
    (0x800, 0xFFFF, 2, 0xE0),
    (0x10000, LAST, 3, 0xF0),
)


def ranges(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """The set of all code points in `pairs`, surrogates left out: UTF-8 does not have them."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(joined[-1][1], high)
        elif low <= high:
            joined.append((low, high))
    return common(tuple(joined), ANY)


def of(characters: str) -> Ranges:
    return ranges((ord(one), ord(one)) for one in characters)


def common(first: Ranges, second: Ranges) -> Ranges:
    """What is in both."""
    found, at = [], 0
    for low, high in first:
        while at < len(second) and second[at][1] < low:
            at += 1
        for other in range(at, len(second)):
            if second[other][0] > high:
                break
            found.append((max(low, second[other][0]), min(high, second[other][1])))
    return tuple(found)


def but(first: Ranges, second: Ranges) -> Ranges:
    """What is in `first` and not in `second`."""
    outside, start = [], 0
    for low, high in second:
        outside.append((start, low - 1))
        start = high + 1
    return common(first, ranges([*outside, (start, LAST)]))


def contains(set_: Ranges, point: int) -> bool:
    return any(low <= point <= high for low, high in set_)


def first_bytes(set_: Ranges, tail: int) -> dict[int, tuple[int, Ranges]]:
    """What may come first: {byte: (bytes that follow it, the values they may have)}.

    With `tail` 0, `set_` holds code points. Else it holds the values that the low bits of `tail`
    bytes of the form 10xxxxxx may have together.
    """
    moves: dict[int, list[tuple[int, int]]] = {}
    tails: dict[int, int] = {}
    for first, last, more, mark in _LENGTHS if tail == 0 else ((0, LAST, tail - 1, 0x80),):
        for low, high in common(set_, ((first, last),)):
            for lead in range(low >> 6 * more, (high >> 6 * more) + 1):
                base = lead << 6 * more
                bounds = max(low - base, 0), min(high - base, (1 << 6 * more) - 1)
                moves.setdefault(mark | lead, []).append(bounds)
                tails[mark | lead] = more
    return {byte: (tails[byte], tuple(found)) for byte, found in moves.items()}

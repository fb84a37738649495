"""The tokens of a GGUF file and their ids, looked up where they lie, without a string for each.

Each string has a number, the sum of its bytes times powers of an odd constant modulo 2**64 (Karp
and Rabin 1987). What the numbers say is compared byte by byte.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from minillm.quantities import counted

from ..formats.gguf_strings import Strings

FACTOR = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
SLOTS = 18  # bits of a number that say where its token is looked for first


class Numbers:
    """Gives stretches of up to `size` bytes their numbers, the same wherever they lie."""

    def __init__(self, size: int) -> None:
        self.powers = np.full(size + 1, FACTOR, np.uint64)
        self.powers[0] = 1
        np.multiply.accumulate(self.powers, out=self.powers)

    def of(self, data: np.ndarray, *stretches: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
        """Those of stretches of `data`, from each place in one array to that in the other.

        Differences of running sums, moved as if each stretch began where the longest data ends.
        """
        sums = np.zeros(len(data) + 1, np.uint64)
        np.multiply(data, self.powers[: len(data)], out=sums[1:])
        np.cumsum(sums, out=sums)
        return [(sums[end] - sums[start]) * self.powers[::-1][start] for start, end in stretches]


class PackedVocabulary(Mapping[str, int]):
    """Ids by token: 0, 1, 2 ... in the order of `names`, as in a dict."""

    def __init__(self, names: Strings, numbers: Numbers) -> None:
        """ValueError for two tokens with one number: they may or may not be the same."""
        self.names, self._scale = names, int(numbers.powers[-1])
        begins, ends = names.starts[:-1], names.starts[1:] - 1
        self.sizes = (ends - begins).astype(np.int32)  # in bytes
        (self._numbers,) = numbers.of(names.packed, (begins, ends))
        in_order = np.sort(self._numbers)
        if (in_order[1:] == in_order[:-1]).any():
            raise ValueError(
                f"vocabulary: some of {counted(len(names), 'token')} have the same number"
            )
        ids = np.arange(len(names), dtype=np.int32)
        self._slots = np.zeros(1 << SLOTS, np.int32)
        self._slots[_slot(self._numbers)] = ids
        lost = np.flatnonzero(self._slots[_slot(self._numbers)] != ids)  # to another in its slot
        self._lost = lost[np.argsort(self._numbers[lost])].astype(np.int32)
        self._lost_numbers = self._numbers[self._lost]

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """The ids (int32) of tokens with these numbers; any id for one that there is not."""
        found = self._slots[_slot(numbers)]
        if len(self._lost):
            missed = self._numbers[found] != numbers
            places = np.searchsorted(self._lost_numbers, numbers[missed])
            found[missed] = self._lost[np.minimum(places, len(self._lost) - 1)]
        return found

    def __getitem__(self, token: str) -> int:
        number = 0
        for byte in reversed(token.encode("utf-8", "surrogatepass")):
            number = (number * FACTOR + byte) & MASK
        number = number * self._scale & MASK
        id = self._slots.data[number >> (64 - SLOTS)]
        if self.names[id] == token:
            return id
        place = bisect_left(self._lost_numbers.data, number)
        if place < len(self._lost) and self.names[self._lost.data[place]] == token:
            return self._lost.data[place]
        raise KeyError(token)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def as_dict(self) -> dict[str, int]:
        return dict(zip(self.names, range(len(self))))

    def spelled(self, ids: np.ndarray) -> np.ndarray:
        """The bytes of tokens, one after the other."""
        sizes = self.sizes[ids]
        ends = np.cumsum(sizes, dtype=np.int32)
        moved = self.names.starts[ids].astype(np.int32) - (ends - sizes)
        return self.names.packed[np.arange(ends[-1], dtype=np.int32) + np.repeat(moved, sizes)]

    @property
    def longest(self) -> int:
        """The characters of the longest token."""
        begin_one = (self.names.packed & 0xC0) != 0x80  # as the NUL before each token does
        counts = np.add.reduceat(begin_one, self.names.starts[:-1] - 1, dtype=np.int32)
        return int(counts.max()) - 1


def _slot(numbers: np.ndarray) -> Any:
    return numbers >> np.uint64(64 - SLOTS)

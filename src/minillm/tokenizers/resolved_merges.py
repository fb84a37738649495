"""The merges of a GGUF file, found in its vocabulary all at once, without a string for each.

Each string has a number, the sum of its bytes times powers of an odd constant modulo 2**64 (Karp
and Rabin 1987): a difference of running sums, times what makes it the same wherever the string
lies. What the numbers say is compared byte by byte.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..formats.gguf_strings import Strings

FACTOR = 0x9E3779B97F4A7C15
SPACE = ord(" ")
SLOTS = 18  # bits of a number that say where its token is looked for first


class ResolvedMerges(Sequence[str]):
    """Merges by rank, each known to join two tokens into a third and to be there once.

    They hold of one vocabulary, of `vocab_size` tokens, and are resolved in no other.
    """

    def __init__(
        self,
        merges: Strings,
        vocab_size: int,
        pairs: np.ndarray,
        ranks: np.ndarray,
        made: np.ndarray,
    ) -> None:
        """`pairs` (n,) are left id << 32 | right id in order, `ranks` theirs; `made` is by rank."""
        self._merges, self.vocab_size, self._pairs = merges, vocab_size, pairs.data
        self._ranks, self._made = ranks, made

    def entry(self, left: int, right: int) -> tuple[int, int] | None:
        """The rank of two ids and the id that they become; None if no merge joins them."""
        pair = left << 32 | right
        place = bisect_left(self._pairs, pair)
        if place == len(self._pairs) or self._pairs[place] != pair:
            return None
        rank = int(self._ranks[place])
        return rank, int(self._made[rank])

    def __len__(self) -> int:
        return len(self._merges)

    def __getitem__(self, key: Any) -> Any:
        return self._merges[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._merges)


def resolved(tokens: Strings, merges: Strings) -> ResolvedMerges | None:
    """The merges, ids being places in `tokens`, which are distinct; None if anything is wrong.

    It is for `spaced` and `check_merges` to say what. (They may find that nothing is: two tokens
    with one number are not told apart here.)
    """
    packed, starts, ends = merges.packed, merges.starts[:-1], merges.starts[1:] - 1
    spaces = np.flatnonzero(packed == SPACE)
    if len(spaces) != len(starts) or (spaces <= starts).any() or (spaces + 1 >= ends).any():
        return None
    begins = tokens.starts[:-1]
    lengths = tokens.starts[1:] - 1 - begins
    powers = np.full(max(len(packed), len(tokens.packed)) + 1, FACTOR, np.uint64)
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    known = _numbers(tokens.packed, powers, (begins, begins + lengths))[0]
    left, right = _numbers(packed, powers, (starts, spaces), (spaces + 1, ends))
    joined = left + right * powers[spaces - starts]
    ids = _places(known, np.array([left, right, joined]))
    if not np.array_equal(lengths[ids], [spaces - starts, ends - spaces - 1, ends - starts - 1]):
        return None
    text = packed[(packed != 0) & (packed != SPACE)]
    for order in (ids[:2].T.reshape(-1), ids[2]):
        if not np.array_equal(_spelled(tokens.packed, begins[order], lengths[order]), text):
            return None
    pairs = ids[0] << 32 | ids[1]
    ranks = np.argsort(pairs)
    pairs = pairs[ranks]
    if (pairs[1:] == pairs[:-1]).any():
        return None
    return ResolvedMerges(merges, len(tokens), pairs, ranks, ids[2])


def _numbers(
    data: np.ndarray, powers: np.ndarray, *stretches: tuple[np.ndarray, np.ndarray]
) -> list[np.ndarray]:
    """The numbers of stretches of `data`, of each from the one place to the other."""
    sums = np.zeros(len(data) + 1, np.uint64)
    np.multiply(data, powers[: len(data)], out=sums[1:])
    np.cumsum(sums, out=sums)
    return [(sums[end] - sums[start]) * powers[len(powers) - 1 - start] for start, end in stretches]


def _places(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in `known` each wanted number is; any place for one that is not there."""
    shift, all_places = np.uint64(64 - SLOTS), np.arange(len(known))
    slots = np.zeros(1 << SLOTS, np.int32)
    slots[known >> shift] = all_places
    found = slots[wanted >> shift].astype(np.int64)
    lost = np.flatnonzero(slots[known >> shift] != all_places)  # another has taken the slot
    if len(lost):
        lost = lost[np.argsort(known[lost])]
        missed = known[found] != wanted
        places = np.searchsorted(known[lost], wanted[missed])
        found[missed] = lost[np.minimum(places, len(lost) - 1)]
    return found


def _spelled(data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The stretches of `data` one after the other."""
    ends = np.cumsum(lengths)
    return data[np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)]

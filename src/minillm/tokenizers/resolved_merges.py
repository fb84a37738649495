"""The merges of a GGUF file, found in its vocabulary all at once, without a string for each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..formats.gguf_strings import Strings
from .packed_vocabulary import Numbers, PackedVocabulary

SPACE = ord(" ")


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


def resolved(tokens: Strings, merges: Strings) -> tuple[PackedVocabulary, ResolvedMerges] | None:
    """A vocabulary and its merges as they lie; None if anything is wrong with them.

    It is for others to say what, who make a string of each. (They may find that nothing is: tokens
    with one number are not told apart here.)
    """
    numbers = Numbers(max(len(tokens.data), len(merges.data)))
    try:
        vocabulary = PackedVocabulary(tokens, numbers)
    except ValueError:
        return None
    packed, starts, ends = merges.packed, merges.starts[:-1], merges.starts[1:] - 1
    spaces = np.flatnonzero(packed == SPACE)
    if len(spaces) != len(starts) or (spaces <= starts).any() or (spaces + 1 >= ends).any():
        return None
    left, right = numbers.of(packed, (starts, spaces), (spaces + 1, ends))
    parts = np.array([left, right, left + right * numbers.powers[spaces - starts]])
    del numbers, left, right
    ids, sizes = vocabulary.places(parts), [spaces - starts, ends - spaces - 1, ends - starts - 1]
    if not all(map(np.array_equal, vocabulary.sizes[ids], sizes)):
        return None
    text = packed[(packed != 0) & (packed != SPACE)]
    for order in (ids[:2].T.reshape(-1), ids[2]):
        if not np.array_equal(vocabulary.spelled(order), text):
            return None
    pairs = ids[0].astype(np.int64) << 32 | ids[1]
    ranks = np.argsort(pairs)
    pairs = pairs[ranks]
    if (pairs[1:] == pairs[:-1]).any():
        return None
    known = ResolvedMerges(merges, len(tokens), pairs, ranks.astype(np.int32), ids[2].copy())
    return vocabulary, known

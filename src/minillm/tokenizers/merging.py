"""The merge loop of byte-pair encoding."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise, repeat
from typing import Any

from .resolved_merges import ResolvedMerges

Pair = tuple[int, int]
Merge = str | Sequence[str]  # two tokens with a space between, or in a list

_MOST = 1 << 17  # pairs in a table

_BITS = 32
_ID = (1 << _BITS) - 1


class Spaced(list[str]):
    """Merges by rank, each known to be two tokens with a space between."""

    @cached_property
    def ranks(self) -> dict[str, int]:
        return dict(zip(self, range(len(self))))


def spaced(merges: Sequence[Any]) -> Spaced | None:
    """The merges, if each is two tokens with a space between."""
    if isinstance(merges, Spaced):
        return merges
    if set(map(type, merges)) != {str} or set(map(str.count, merges, repeat(" "))) != {1}:
        return None
    text = "\n".join(["", *merges, ""])
    return None if "\n " in text or " \n" in text else Spaced(merges)


class PairTable(dict[Pair, int | None]):
    """The table that `merge` reads: the entry of a pair of ids is found when it is first met.

    None is the entry of a pair that no merge joins. Memory is bounded.
    """

    def __init__(
        self,
        names: Sequence[str],
        ids: Mapping[str, int],
        merges: Sequence[Merge],
        hidden: Collection[str] = (),
    ) -> None:
        """`names` by id, `ids` of tokens, `merges` by rank; `hidden` tokens are never made.

        What is damaged in the merges is refused by `check_merges`, not here.
        """
        super().__init__()
        self._names, self._ids, self._hidden = names, ids, frozenset(hidden)
        self._resolved = merges if isinstance(merges, ResolvedMerges) else None
        if self._resolved is not None:
            self._hidden_ids = {ids[token] for token in self._hidden if token in ids}
            return
        self._spaced = isinstance(merges, Spaced)
        self._ranks: Mapping[Any, int] = (
            merges.ranks
            if isinstance(merges, Spaced)
            else dict(zip(pairs(merges), range(len(merges))))
        )

    def __missing__(self, pair: Pair) -> int | None:
        entry = self._by_name(*pair) if self._resolved is None else self._by_id(*pair)
        if len(self) >= _MOST:
            self.clear()
        self[pair] = entry
        return entry

    def _by_name(self, left_id: int, right_id: int) -> int | None:
        left, right = self._names[left_id], self._names[right_id]
        rank = self._ranks.get(f"{left} {right}" if self._spaced else (left, right))
        tokens = {left, right, left + right}
        if rank is None or not tokens <= self._ids.keys() or not self._hidden.isdisjoint(tokens):
            return None
        return merge_entry(rank, self._ids[left + right])

    def _by_id(self, left: int, right: int) -> int | None:
        assert self._resolved is not None
        found = self._resolved.entry(left, right)
        if found is None or not self._hidden_ids.isdisjoint((left, right, found[1])):
            return None
        return merge_entry(*found)


def pairs(merges: Iterable[Merge]) -> list[tuple[str, str]]:
    """Merges of one form or the other as pairs; ValueError for one that is not two parts."""
    return [_pair(merge) for merge in merges]


def _pair(merge: Merge) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def check_merges(ids: Mapping[str, int], merges: Sequence[Merge]) -> None:
    """ValueError for a merge that joins or makes an unknown token or is there twice.

    Each of `merges` must be two parts; `ids` are the tokens'.
    """
    if fit(ids, merges):
        return
    met: set[tuple[str, str]] = set()
    for rank, (left, right) in enumerate(pairs(merges)):
        if not {left, right, left + right} <= ids.keys():
            raise ValueError(
                f"tokenizer: merge {rank} joins {left!r} and {right!r}, both and their union "
                "must be tokens"
            )
        if (left, right) in met:
            raise ValueError(
                f"tokenizer: merge {rank} ({left!r} and {right!r}) occurs twice, each "
                "needs to be distinct"
            )
        met.add((left, right))


def fit(ids: Mapping[str, int], merges: Sequence[Merge]) -> bool:
    """Whether all is well, in passes over all merges at once."""
    if isinstance(merges, ResolvedMerges):
        return len(ids) == merges.vocab_size
    if isinstance(merges, Spaced):
        text, distinct = "\n".join(merges), len(merges.ranks)
        parts, made = text.replace(" ", "\n").split("\n"), text.replace(" ", "").split("\n")
    else:
        parts = [part for merge in pairs(merges) for part in merge]
        made, distinct = list(map("".join, merges)), len(set(pairs(merges)))
    there = ids.__contains__
    whole = len(merges) == len(made) == distinct
    return whole and all(map(there, parts)) and all(map(there, made))


def merge_entry(rank: int, made: int) -> int:
    """What the table of `merge` holds for a pair of ids: its rank and the id it becomes."""
    return rank << _BITS | made


def merge(ids: Sequence[int], table: Mapping[Pair, int] | PairTable) -> list[int]:
    """Merge pairs until none is left: the lowest rank first, the leftmost among equals.

    O(n log n): a linked list of the ids and a heap of places, whose entries are checked when they
    come up.
    """
    size = len(ids)
    ids = list(ids)
    after = list(range(1, size + 1))
    before = list(range(-1, size - 1))
    look_up = table.__getitem__ if isinstance(table, PairTable) else table.get
    heap = [
        (found >> _BITS) * size + at
        for at, found in enumerate(map(look_up, pairwise(ids)))
        if found is not None
    ]
    heapify(heap)
    while heap:
        rank, at = divmod(heappop(heap), size)
        right = after[at]
        if right == size:
            continue
        found = look_up((ids[at], ids[right]))
        if found is None or found >> _BITS != rank:
            continue
        ids[at] = found & _ID
        ids[right] = -1
        right = after[at] = after[right]
        if right < size:
            before[right] = at
            found = look_up((ids[at], ids[right]))
            if found is not None:
                heappush(heap, (found >> _BITS) * size + at)
        left = before[at]
        if left >= 0:
            found = look_up((ids[left], ids[at]))
            if found is not None:
                heappush(heap, (found >> _BITS) * size + left)
    return [id for id in ids if id >= 0]

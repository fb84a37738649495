"""The merge loop of byte-pair encoding, and the places in a long input where it may be cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

Pair = tuple[int, int]


def merge(ids: Sequence[int], ranks: Mapping[Pair, int], merged: Sequence[int]) -> list[int]:
    """Merge pairs until none is left: the lowest rank first, the leftmost among equals.

    `ranks` gives the rank of a pair of ids, `merged` the id that a rank makes of it. O(n log n): a
    linked list of the ids and a heap of places, whose entries are checked when they come up.
    """
    size = len(ids)
    ids = list(ids)
    after = list(range(1, size + 1))
    before = list(range(-1, size - 1))
    heap = [ranks[pair] * size + at for at, pair in enumerate(pairwise(ids)) if pair in ranks]
    heapify(heap)
    rank_of = ranks.get
    while heap:
        rank, at = divmod(heappop(heap), size)
        right = after[at]
        if right == size or rank_of((ids[at], ids[right])) != rank:
            continue
        ids[at] = merged[rank]
        ids[right] = -1
        right = after[at] = after[right]
        if right < size:
            before[right] = at
            new = rank_of((ids[at], ids[right]))
            if new is not None:
                heappush(heap, new * size + at)
        left = before[at]
        if left >= 0:
            new = rank_of((ids[left], ids[at]))
            if new is not None:
                heappush(heap, new * size + left)
    return [id for id in ids if id >= 0]

"""The merge loop of byte-pair encoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

Pair = tuple[int, int]

_BITS = 32
_ID = (1 << _BITS) - 1


def pair_table(ids: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> dict[Pair, int]:
    """The table that `merge` reads, of merges by their order; `ids` are the tokens'.

    Raises ValueError for a merge that joins or makes an unknown token or is there twice.
    """
    table: dict[Pair, int] = {}
    for rank, (left, right) in enumerate(merges):
        first, second, made = ids.get(left), ids.get(right), ids.get(left + right)
        if first is None or second is None or made is None:
            raise ValueError(
                f"tokenizer: merge {rank} joins {left!r} and {right!r}, both and their union "
                "must be tokens"
            )
        entry = merge_entry(rank, made)
        if table.setdefault((first, second), entry) != entry:
            raise ValueError(
                f"tokenizer: merge {rank} ({left!r} and {right!r}) occurs twice, each "
                "needs to be distinct"
            )
    return table


def merge_entry(rank: int, made: int) -> int:
    """What the table of `merge` holds for a pair of ids: its rank and the id it becomes."""
    return rank << _BITS | made


def merge(ids: Sequence[int], table: Mapping[Pair, int]) -> list[int]:
    """Merge pairs until none is left: the lowest rank first, the leftmost among equals.

    O(n log n): a linked list of the ids and a heap of places, whose entries are checked when they
    come up.
    """
    size = len(ids)
    ids = list(ids)
    after = list(range(1, size + 1))
    before = list(range(-1, size - 1))
    heap = [
        (table[pair] >> _BITS) * size + at for at, pair in enumerate(pairwise(ids)) if pair in table
    ]
    heapify(heap)
    look_up = table.get
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

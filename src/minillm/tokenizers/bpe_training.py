"""Learning the merges of neighbours, most frequent first, from counted pre-tokens."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import TypeVar

from .splitting import split, windows

Progress = Callable[[int, int], object]
Pair = tuple[int, int]
Token = TypeVar("Token", str, bytes)

LEAST_COUNT = 2
LONGEST_WORD = 1024
_BORDER, _GONE = -1, -2


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each pre-token occurs in the texts joined; their borders make no difference.

    A pre-token of more than 1024 characters is counted as pieces of 1024.
    """
    counts: Counter[str] = Counter()
    for window in windows(texts):
        counts.update(split(window))
    for word in [word for word in counts if len(word) > LONGEST_WORD]:
        count = counts.pop(word)
        for start in range(0, len(word), LONGEST_WORD):
            counts[word[start : start + LONGEST_WORD]] += count
    return counts


def learn_merges(
    words: Mapping[str, int], size: int, progress: Progress | None = None
) -> list[tuple[bytes, bytes]]:
    """Up to `size` new tokens: merge the most frequent pair of neighbours, again and again.

    Among equally frequent pairs the smallest wins, compared by the bytes of the left token, then of
    the right one. Stops early when no pair occurs twice. `progress(done, total)` is called after
    each merge. A pair that makes an already known token is a merge but no new token.
    """
    alphabet = [bytes([byte]) for byte in range(256)]
    spelled = ((word.encode("utf-8"), count) for word, count in words.items())
    return merge_pairs(alphabet, spelled, bytes.__add__, size, progress)


def merge_pairs(
    alphabet: Sequence[Token],
    words: Iterable[tuple[Sequence[int], int]],
    join: Callable[[Token, Token], Token],
    size: int,
    progress: Progress | None = None,
) -> list[tuple[Token, Token]]:
    """As `learn_merges`, for any tokens that can be compared.

    `words` are spelled in places of the `alphabet`; `join` makes the token of a pair.
    """
    corpus = _Corpus(words)
    tokens = list(alphabet)
    ids = {token: id for id, token in enumerate(tokens)}
    merges: list[tuple[Token, Token]] = []

    def entry(pair: Pair) -> tuple[int, Token, Token, Pair]:
        return -corpus.counts[pair], tokens[pair[0]], tokens[pair[1]], pair

    # An entry is never below its pair's count: counts that rise get a new entry at once, counts
    # that have fallen are noticed when the entry comes up.
    heap = [entry(pair) for pair in corpus.counts]
    heapify(heap)
    while heap and len(tokens) < len(alphabet) + size:
        count, left, right, pair = heappop(heap)
        now = corpus.counts[pair]
        if now != -count:
            if now >= LEAST_COUNT:
                heappush(heap, entry(pair))
            continue
        if now < LEAST_COUNT:
            break
        merges.append((left, right))
        joined = join(left, right)
        made = ids.setdefault(joined, len(tokens))
        if made == len(tokens):
            tokens.append(joined)
        for risen in corpus.merge(pair, made):
            heappush(heap, entry(risen))
        if progress is not None:
            progress(len(tokens) - len(alphabet), size)
    return merges


class _Corpus:
    """All words as one linked list of ids, with each pair's count and the places where it was seen.

    A merge costs time in proportion to the places of its pair, however long the words are.
    """

    def __init__(self, words: Iterable[tuple[Sequence[int], int]]) -> None:
        self.counts: Counter[Pair] = Counter()
        self._places: defaultdict[Pair, list[int]] = defaultdict(list)
        self._ids: list[int] = [_BORDER]
        self._weights: list[int] = [0]
        for data, count in words:
            for at, pair in enumerate(pairwise(data), len(self._ids)):
                self.counts[pair] += count
                self._places[pair].append(at)
            self._ids += [*data, _BORDER]
            self._weights += [count] * len(data) + [0]
        self._before = list(range(-1, len(self._ids) - 1))
        self._after = list(range(1, len(self._ids) + 1))

    def merge(self, pair: Pair, made: int) -> set[Pair]:
        """Replace `pair` by `made` everywhere, from left to right; the pairs that this brings."""
        ids, before, after, counts = self._ids, self._before, self._after, self.counts
        brought: set[Pair] = set()
        for at in sorted(self._places.pop(pair)):
            right = after[at]
            if ids[at] != pair[0] or ids[right] != pair[1]:
                continue
            weight = self._weights[at]
            previous, following = before[at], after[right]
            ids[at], ids[right] = made, _GONE
            after[at], before[following] = following, at
            counts[pair] -= weight
            if ids[previous] != _BORDER:
                counts[ids[previous], pair[0]] -= weight
                brought.add(self._bring(previous, (ids[previous], made), weight))
            if ids[following] != _BORDER:
                counts[pair[1], ids[following]] -= weight
                brought.add(self._bring(at, (made, ids[following]), weight))
        return brought

    def _bring(self, at: int, pair: Pair, weight: int) -> Pair:
        self.counts[pair] += weight
        self._places[pair].append(at)
        return pair

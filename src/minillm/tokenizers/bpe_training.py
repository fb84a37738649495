"""Learning the merges of byte-pair encoding from counted pre-tokens."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from itertools import pairwise

from .splitting import split, windows

Progress = Callable[[int, int], object]
Pair = tuple[int, int]

LEAST_COUNT = 2
LONGEST_WORD = 1024


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
    pairs = _Pairs(words)
    tokens = [bytes([byte]) for byte in range(256)]
    ids = {token: id for id, token in enumerate(tokens)}
    merges = []
    heap = [_entry(count, pair, tokens) for pair, count in pairs.counts.items()]
    heapify(heap)
    while heap and len(tokens) < 256 + size:
        count, _, _, pair = heappop(heap)
        now = pairs.counts.get(pair, 0)
        if now < LEAST_COUNT:
            continue
        if now != -count:
            heappush(heap, _entry(now, pair, tokens))
            continue
        left, right = tokens[pair[0]], tokens[pair[1]]
        merges.append((left, right))
        made = ids.setdefault(left + right, len(tokens))
        if made == len(tokens):
            tokens.append(left + right)
        for risen in pairs.merge(pair, made):
            heappush(heap, _entry(pairs.counts[risen], risen, tokens))
        if progress is not None:
            progress(len(tokens) - 256, size)
    return merges


def _entry(count: int, pair: Pair, tokens: list[bytes]) -> tuple[int, bytes, bytes, Pair]:
    return (-count, tokens[pair[0]], tokens[pair[1]], pair)


class _Pairs:
    """Words as lists of ids, with the count of each pair of neighbours and where it occurs."""

    def __init__(self, words: Mapping[str, int]) -> None:
        self._words = [list(word.encode("utf-8")) for word in words]
        self._word_counts = list(words.values())
        self.counts: Counter[Pair] = Counter()
        self._where: defaultdict[Pair, set[int]] = defaultdict(set)
        for index, (word, count) in enumerate(zip(self._words, self._word_counts)):
            for pair in pairwise(word):
                self.counts[pair] += count
                self._where[pair].add(index)

    def merge(self, pair: Pair, made: int) -> set[Pair]:
        """Replace `pair` by `made` everywhere; the pairs whose count has risen."""
        touched: set[Pair] = set()
        for index in self._where.pop(pair):
            word, count = self._words[index], self._word_counts[index]
            shorter = _replaced(word, pair, made)
            if len(shorter) == len(word):
                continue
            for old in pairwise(word):
                self.counts[old] -= count
            for new in pairwise(shorter):
                self.counts[new] += count
                if made in new:
                    self._where[new].add(index)
                    touched.add(new)
            self._words[index] = shorter
        del self.counts[pair]
        return touched


def _replaced(word: list[int], pair: Pair, made: int) -> list[int]:
    """`word` with `pair` merged from left to right."""
    left, right = pair
    shorter = []
    at = 0
    while at < len(word):
        if word[at] == left and at + 1 < len(word) and word[at + 1] == right:
            shorter.append(made)
            at += 2
        else:
            shorter.append(word[at])
            at += 1
    return shorter

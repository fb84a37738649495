"""Translations without a model: the source itself, and what was said of the text most like it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy

from minillm.tasks.overlap import ngrams
from minillm.tasks.translation.pairs import Pair, key

LONGEST = 4  # characters of the n-grams that are compared


def copied(pairs: Sequence[Pair]) -> list[str]:
    return [pair.source for pair in pairs]


def nearest(learnt: Sequence[Pair], pairs: Sequence[Pair]) -> list[str]:
    """The translation of the learnt source most like each source, the first among equals.

    Alike by the cosine of counts of n-grams of 1 to 4 characters, each weighted by
    log(1 + N / how many of the N learnt sources have it).
    """
    counts = [_counts(pair.source) for pair in learnt]
    held: Counter[str] = Counter()
    for own in counts:
        held.update(own.keys())
    weights = {gram: float(numpy.log1p(len(learnt) / n)) for gram, n in held.items()}
    places: dict[str, list[int]] = defaultdict(list)
    values: dict[str, list[float]] = defaultdict(list)
    for place, own in enumerate(counts):
        weighted = {gram: n * weights[gram] for gram, n in own.items()}
        length = float(numpy.linalg.norm(list(weighted.values()))) or 1.0
        for gram, value in weighted.items():
            places[gram].append(place)
            values[gram].append(value / length)
    posted = {gram: (numpy.array(places[gram]), numpy.array(values[gram])) for gram in places}
    found = []
    for pair in pairs:
        alike = numpy.zeros(len(learnt))
        for gram, n in _counts(pair.source).items():
            if gram in posted:
                where, shares = posted[gram]
                alike[where] += n * weights[gram] * shares
        found.append(learnt[int(alike.argmax())].target)
    return found


def _counts(text: str) -> Counter[str]:
    text = f" {key(text)} "
    found: Counter[str] = Counter()
    for n in range(1, LONGEST + 1):
        found.update(ngrams(text, n))
    return found

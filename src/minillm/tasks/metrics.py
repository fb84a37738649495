"""How good predictions are, as functions of sums over examples.

So one line gives a metric, its value on any resample of the examples, and with that its interval:
every metric is `finish(weights @ statistics)`, the weights saying how often an example is counted.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from minillm.tasks.examples import OUTSIDE

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = frozenset(string.punctuation)


@dataclass(frozen=True)
class Metric:
    """`statistics` (N, K) by example; `finish` makes (..., K) sums to (...) values.

    `lowest`: a lower value is a better one.
    """

    statistics: numpy.ndarray
    finish: Callable[[numpy.ndarray], numpy.ndarray]
    lowest: bool = False

    @property
    def value(self) -> float:
        return float(self.finish(self.statistics.sum(axis=0)))

    def __len__(self) -> int:
        return len(self.statistics)


def mean(scores: Iterable[float]) -> Metric:
    """The mean of one score an example."""
    column = numpy.asarray(list(scores), numpy.float64)
    return Metric(numpy.stack([column, numpy.ones_like(column)], axis=1), _ratio)


def accuracy(expected: Sequence[Any], predicted: Sequence[Any]) -> Metric:
    """The share of predictions that are right."""
    return mean(map(float, map(lambda e, p: e == p, expected, predicted)))


def macro_f1(expected: Sequence[str], predicted: Sequence[str]) -> Metric:
    """F1 of each label, 2 right / (expected + predicted), its mean over the labels there are.

    A label that is neither expected nor predicted does not count, as in scikit-learn's default.
    """
    labels = {label: place for place, label in enumerate(sorted({*expected, *predicted}))}
    counts = numpy.zeros((len(expected), 3, len(labels)))
    for row, one, other in zip(counts, expected, predicted, strict=True):
        row[0, labels[one]] += one == other
        row[1, labels[one]] += 1
        row[2, labels[other]] += 1

    def finish(sums: numpy.ndarray) -> numpy.ndarray:
        right, wanted, given = numpy.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
        there = wanted + given
        f1 = 2 * right / numpy.where(there, there, 1)
        return f1.sum(axis=-1) / numpy.maximum((there > 0).sum(axis=-1), 1)

    return Metric(counts.reshape(len(counts), -1), finish)


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first word, last word) of each entity of a sentence, as conlleval finds them.

    An entity begins at B- or S-, or where an I- or E- follows another type, O or an end.
    """
    found = set()
    kind, start, before = "", 0, OUTSIDE
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, name = tag.partition("-")
        goes_on = prefix in ("I", "E") and name == kind and before not in (OUTSIDE, "E", "S")
        if not goes_on:
            if before != OUTSIDE:
                found.add((kind, start, place - 1))
            kind, start = name, place
        before = prefix
    return found


def entity_metrics(
    expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, Metric]:
    """F1, precision and recall of whole entities, summed over all sentences."""
    counts = numpy.zeros((len(expected), 3))
    for row, one, other in zip(counts, expected, predicted, strict=True):
        wanted, given = entities(one), entities(other)
        row[:] = len(wanted & given), len(wanted), len(given)
    return {
        "f1": Metric(counts, lambda sums: _divided(2 * sums[..., 0], sums[..., 1] + sums[..., 2])),
        "precision": Metric(counts, lambda sums: _divided(sums[..., 0], sums[..., 2])),
        "recall": Metric(counts, lambda sums: _divided(sums[..., 0], sums[..., 1])),
    }


def normalised(answer: str) -> str:
    """Lower case, without punctuation, articles and spare white space (Rajpurkar et al. 2016)."""
    bare = "".join(c for c in answer.lower() if c not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def exact_match(expected: Sequence[Sequence[str]], predicted: Sequence[str]) -> Metric:
    """The share of predictions that equal an accepted answer, both normalised."""
    return mean(
        float(any(normalised(answer) == normalised(given) for answer in answers))
        for answers, given in zip(expected, predicted, strict=True)
    )


def answer_f1(expected: Sequence[Sequence[str]], predicted: Sequence[str]) -> Metric:
    """F1 of the words of prediction and answer, the best accepted answer's, mean over questions."""
    return mean(
        max(overlap_f1(answer, given) for answer in answers)
        for answers, given in zip(expected, predicted, strict=True)
    )


def overlap_f1(answer: str, given: str) -> float:
    """F1 of the bags of normalised words; 1 for two empty ones."""
    wanted, found = normalised(answer).split(), normalised(given).split()
    if not wanted or not found:
        return float(wanted == found)
    common = (Counter(wanted) & Counter(found)).total()
    return 2 * common / (len(wanted) + len(found))


def recall_at(k: int, relevant: Sequence[set[Any]], ranked: Sequence[Sequence[Any]]) -> Metric:
    """The share of what is relevant to a query among its first k, mean over queries."""
    return mean(
        len(wanted & set(order[:k])) / len(wanted)
        for wanted, order in zip(relevant, ranked, strict=True)
    )


def ndcg_at(k: int, relevant: Sequence[set[Any]], ranked: Sequence[Sequence[Any]]) -> Metric:
    """Sum of 1 / log2(place + 1) over relevant places up to k, as a share of the best order's."""
    gains = 1 / numpy.log2(numpy.arange(2, k + 2))
    scores = []
    for wanted, order in zip(relevant, ranked, strict=True):
        hits = numpy.array([item in wanted for item in order[:k]], bool)
        best = gains[: min(k, len(wanted))].sum()
        scores.append(float(gains[: len(hits)][hits].sum() / best))
    return mean(scores)


def reciprocal_rank(ranks: Sequence[float]) -> Metric:
    """1 / rank of what is right, the first being 1, mean over queries (Voorhees 1999)."""
    return mean(1 / rank for rank in ranks)


def standing(ranks: Sequence[float], first: int) -> dict[str, Metric]:
    """How high the one right item of each query stands: its rank, infinite where it is missing."""
    right: list[set[int]] = [{0}] * len(ranks)  # one of the `first` places, or none of them
    order = [[int(place != rank) for place in range(1, first + 1)] for rank in ranks]
    return {
        "recall_at_1": recall_at(1, right, order),
        f"recall_at_{first}": recall_at(first, right, order),
        "mrr": reciprocal_rank(ranks),
        f"ndcg_at_{first}": ndcg_at(first, right, order),
    }


def spearman(one: Any, other: Any) -> Metric:
    """Correlation of ranks; equal values share the mean of theirs. 0 where all are equal.

    A resample is judged by the ranks that its examples have among all.
    """
    a, b = (_ranks(numpy.asarray(values, numpy.float64)) for values in (one, other))
    a, b = a - a.mean(), b - b.mean()

    def finish(sums: numpy.ndarray) -> numpy.ndarray:
        n, x, y, xy, xx, yy = numpy.moveaxis(sums, -1, 0)
        spread = (n * xx - x * x) * (n * yy - y * y)
        return _divided(n * xy - x * y, numpy.sqrt(numpy.maximum(spread, 0.0)))

    return Metric(numpy.stack([numpy.ones_like(a), a, b, a * b, a * a, b * b], axis=1), finish)


def _ranks(values: numpy.ndarray) -> numpy.ndarray:
    _, place, counts = numpy.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return ((2 * ends - counts + 1) / 2)[place]


def _ratio(sums: numpy.ndarray) -> numpy.ndarray:
    return _divided(sums[..., 0], sums[..., 1])


def _divided(part: numpy.ndarray, whole: numpy.ndarray) -> numpy.ndarray:
    """0 where there is nothing to divide by, as conlleval and scikit-learn have it."""
    return part / numpy.where(whole, whole, 1)

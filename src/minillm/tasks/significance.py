"""How sure a figure is: bootstrap intervals, and whether one model is better than another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy

from minillm.arrays import new_generator
from minillm.tasks.metrics import Metric

RESAMPLES, LEVEL = 10_000, 0.95
WEIGHTS_AT_ONCE = 1 << 22


class Interval(NamedTuple):
    """A value, and between what bounds it would be on other examples of the same kind."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """Second minus first, its interval, and how often chance alone gives as much or more."""

    value: float
    low: float
    high: float
    p: float

    @property
    def significant(self) -> bool:
        return self.p < 1 - LEVEL


def interval(metric: Metric, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The percentile bootstrap (Efron 1979) over examples, 95 %."""
    values = _resampled([metric], resamples, seed)[0]
    return Interval(metric.value, *_bounds(values))


def difference(
    first: Metric, second: Metric, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """The paired bootstrap (Koehn 2004): both on the same resamples of the same examples.

    p is two-sided: twice the smaller share of resamples on either side of 0, but no less than
    2^(1 - n), how often n examples all fall on one side by chance.
    """
    if len(first) != len(second):
        raise ValueError(
            f"compare: {len(first)} and {len(second)} examples, the same examples are needed"
        )
    one, other = _resampled([first, second], resamples, seed)
    values = other - one
    ties = (values == 0).sum()
    sides = ((values < 0).sum() + ties, (values > 0).sum() + ties)
    p = min(1.0, 2 * (float(min(sides)) + 1) / (resamples + 1))
    p = max(p, 2.0 ** (1 - len(first)))
    return Difference(second.value - first.value, *_bounds(values), p)


def mcnemar(first: numpy.ndarray, second: numpy.ndarray) -> tuple[int, int, float]:
    """How often only the first and only the second was right, and the exact two-sided p.

    Under the null both are equally likely among the examples on which they differ (McNemar 1947).
    """
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    n, least = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(least + 1))
    return only_first, only_second, min(1.0, 2 * tail / 2**n)


def _bounds(values: numpy.ndarray) -> tuple[float, float]:
    low, high = numpy.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def _resampled(metrics: list[Metric], resamples: int, seed: int) -> list[numpy.ndarray]:
    """The values of each metric on the same resamples."""
    parts = [
        [metric.finish(weights @ metric.statistics) for metric in metrics]
        for weights in _weights(len(metrics[0]), resamples, seed)
    ]
    return [numpy.concatenate(values) for values in zip(*parts, strict=True)]


def _weights(n: int, resamples: int, seed: int) -> Iterator[numpy.ndarray]:
    """(resamples, n) counts, some at a time: how often a resample holds each example."""
    generator = new_generator(seed)
    at_once = max(1, WEIGHTS_AT_ONCE // n)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        yield generator.multinomial(n, numpy.full(n, 1 / n), size=size).astype(numpy.float64)

"""Which of many to keep, without sorting them all, the first of equals first; which one to draw."""

from __future__ import annotations

import numpy

ENOUGH = 1 - 1e-12
"""A sum of rounded probabilities this near to a bound has reached it: 0.5 + 0.3 of top_p 0.8."""

_SORTED_AT_ONCE = 2048
_BUCKETS, _PER_NAT = 2048, 50.0


def largest(values: numpy.ndarray, count: int) -> numpy.ndarray:
    """Places of the `count` largest of `values` (n,), ascending."""
    if count >= len(values):
        return numpy.arange(len(values))
    if not count:
        return numpy.arange(0)
    bound = numpy.partition(values, len(values) - count)[len(values) - count]
    places = numpy.flatnonzero(values >= bound)
    if len(places) > count:
        equal = numpy.flatnonzero(values[places] == bound)
        places = numpy.delete(places, equal[count - len(places) :])
    return places


def first_mass(keys: numpy.ndarray, weights: numpy.ndarray, share: float) -> numpy.ndarray:
    """Places of the shortest list by ascending key whose weight reaches `share` of all, ascending.

    A place belongs to it while the weight before it is below the share, so it is never empty. Keys
    (n,) are distances in nats, 0 or more. Where there are many, buckets of keys find the one in
    which the list ends, and only that one is sorted.
    """
    bound = share * float(weights.sum()) * ENOUGH
    if len(keys) <= _SORTED_AT_ONCE:
        order = numpy.argsort(keys, kind="stable")
        return numpy.sort(order[: _count(weights[order], 0.0, bound)])
    scaled = keys * _PER_NAT
    bucket = numpy.minimum(scaled, _BUCKETS - 1, out=scaled).astype(numpy.intp)
    reached = numpy.cumsum(numpy.bincount(bucket, weights, _BUCKETS))
    last = int(numpy.searchsorted(reached, max(bound, 5e-324)))
    kept = bucket < last
    if last < _BUCKETS:
        edge = numpy.flatnonzero(bucket == last)
        edge = edge[numpy.argsort(keys[edge], kind="stable")]
        before = float(reached[last - 1]) if last else 0.0
        kept[edge[: _count(weights[edge], before, bound)]] = True
    return numpy.flatnonzero(kept)


def _count(weights: numpy.ndarray, before: float, bound: float) -> int:
    """How many of `weights`, in their order, have less than `bound` before them; at least 1."""
    return 1 + int(numpy.searchsorted(before + numpy.cumsum(weights), bound))


def draw(weights: numpy.ndarray, generator: numpy.random.Generator) -> int:
    """One place of `weights` (n,), float64 and 0 or more, by their shares; never one of weight 0.

    One `generator.random()`. They need not add up to 1.
    """
    return draw_place(numpy.cumsum(weights), generator)


def draw_place(total: numpy.ndarray, generator: numpy.random.Generator) -> int:
    """The same for the cumulative sums of the weights."""
    place = int(numpy.searchsorted(total, generator.random() * total[-1], side="right"))
    if place == len(total):  # the product was rounded up to the total
        place = int(numpy.searchsorted(total, total[-1]))
    return place

"""How probable tokens are to the model itself, and which of several texts it finds best."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy

from minillm.generation.sampling.choosing import largest


class NotFinite(ValueError):
    """What a model gives that has damaged weights: no distribution."""


def checked(logits: numpy.ndarray) -> numpy.ndarray:
    """The logits (V,). ValueError for another shape, NotFinite where they are no distribution."""
    logits = numpy.asarray(logits)
    if logits.ndim != 1 or not logits.size:
        raise ValueError(f"sampling: logits of shape {logits.shape}, (V,) is needed")
    most = logits.max()  # NaN if there is any
    if not math.isfinite(most):
        what = "NaN" if math.isnan(most) else "infinity" if most > 0 else "no finite number"
        raise NotFinite(f"sampling: the logits hold {what}, finite numbers are needed")
    return logits


def log_probabilities(logits: numpy.ndarray) -> numpy.ndarray:
    """log softmax of logits (V,): float64 (V,) in nats, of the model itself, before any step.

    Exact also where one token has nearly all the mass: its own term is not rounded against the
    rest. -inf stays -inf. NotFinite for logits that hold NaN, +inf or no finite value.
    """
    values = checked(logits).astype(numpy.float64)
    best = int(values.argmax())
    with numpy.errstate(over="ignore"):  # further apart than float64 reaches: probability 0
        values -= values[best]
    rest = numpy.exp(values)
    rest[best] = 0.0
    values -= numpy.log1p(rest.sum())
    return values


def top_log_probabilities(logits: numpy.ndarray, n: int) -> list[tuple[int, float]]:
    """(id, log-probability) of the n most probable tokens, best first, the lowest id of equals.

    Of the model's own distribution, before any step; tokens at -inf are left out. ValueError for n
    below 0 and as for `log_probabilities`.
    """
    if isinstance(n, bool) or not isinstance(n, int | numpy.integer) or n < 0:
        raise ValueError(f"logprobs: {n!r}, a whole number of 0 or more is needed")
    values = log_probabilities(logits)
    return [
        (int(id), float(values[id])) for id in best_ids(values, int(n)) if values[id] > -math.inf
    ]


def best_ids(values: numpy.ndarray, n: int) -> numpy.ndarray:
    """Ids of the n largest of `values` (V,), largest first, the lowest id of equals."""
    ids = largest(values, n)
    return ids[numpy.argsort(-values[ids], kind="stable")]


def best_of(log_probabilities: Sequence[Sequence[float]], n: int = 1) -> list[int]:
    """Which n of several texts the model finds best: places, best first, the first of equals.

    Texts are compared by the mean log-probability of their tokens, the end token included, so a
    long text does not lose for being long; one without any token comes last. ValueError for n
    outside 1 to the number of texts, or a log-probability that is NaN or above 0.
    """
    if not 1 <= n <= len(log_probabilities):
        raise ValueError(f"best-of: {n} of {len(log_probabilities)} texts, 1 to all are needed")
    means = [_mean(values) for values in log_probabilities]
    return sorted(range(len(means)), key=lambda place: -means[place])[:n]


def _mean(values: Sequence[float]) -> float:
    for value in values:
        if not value <= 0:
            raise ValueError(f"best-of: a log-probability of {value}, at most 0 is needed")
    return math.fsum(values) / len(values) if len(values) else -math.inf

"""Span corruption (Raffel et al. 2020, section 3.1.4): which spans of a text are taken out of it.

Lengths and spans are those of T5's own preprocessors (`compute_input_and_target_lengths`,
`random_spans_noise_mask`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SHARE, MEAN_SPAN = 0.15, 3.0


class Corrupted(NamedTuple):
    """What is read, and what is to be written: both (L,) ids without an end token."""

    inputs: np.ndarray
    targets: np.ndarray


def counts(length: int) -> tuple[int, int]:
    """Tokens that are taken out of `length`, 2 or more, and spans that they form."""
    noise = min(max(round(length * SHARE), 1), length - 1)
    return noise, max(round(noise / MEAN_SPAN), 1)


def lengths(length: int) -> tuple[int, int]:
    """Of inputs and targets made of `length` tokens: a sentinel a span, and the end token."""
    noise, spans = counts(length)
    return length - noise + spans + 1, noise + spans + 1


def raw_length(inputs: int) -> int:
    """The most tokens whose inputs are no longer than `inputs`, 4 or more."""
    length = 2
    while lengths(length + 1)[0] <= inputs:
        length += 1
    return length


def noise_mask(length: int, stream: np.random.Philox) -> np.ndarray:
    """(L,) booleans, True in the spans: each begins behind a token that is kept."""
    noise, spans = counts(length)
    taken = _segments(noise, spans, stream)
    kept = _segments(length - noise, spans, stream)
    sizes = np.stack((kept, taken), axis=1).reshape(-1)
    return np.repeat(np.arange(2 * spans) % 2 == 1, sizes)


def _segments(items: int, parts: int, stream: np.random.Philox) -> np.ndarray:
    """Sizes of `parts` segments of `items`, every choice of sizes from 1 equally probable."""
    order: np.ndarray = np.argsort(stream.random_raw(items - 1), kind="stable")
    ends = np.sort(order[: parts - 1]) + 1
    return np.diff(np.concatenate(([0], ends, [items])).astype(np.int64))


def corrupt(ids: np.ndarray, sentinels: np.ndarray, stream: np.random.Philox) -> Corrupted:
    """Each span of ids (L,) gives way to a sentinel; the targets are the sentinels and spans."""
    mask = noise_mask(len(ids), stream)
    begins = mask & ~np.concatenate(([False], mask[:-1]))
    marks = sentinels[np.cumsum(begins)[mask] - 1]
    inputs = ids.copy()
    inputs[begins] = marks[begins[mask]]
    targets = np.insert(ids[mask], np.flatnonzero(begins[mask]), sentinels[: begins.sum()])
    return Corrupted(inputs[~mask | begins], targets)

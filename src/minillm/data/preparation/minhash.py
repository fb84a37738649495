"""Texts that are nearly the same: MinHash, and the bands in which two of them may agree.

Source: Broder 1997 (MinHash); Li, Owen and Zhang 2012 (one permutation: each of 128 bins keeps the
least of the hashes that fall into it); Shrivastava and Li 2014 (an empty bin borrows from a
neighbour); Li and König 2010 (the lowest bits are enough to estimate the similarity).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..lines import weights
from .measures import Measures

BINS, BANDS, ROWS = 128, 21, 6
THRESHOLD = 0.8
_EMPTY = np.uint32(0xFFFFFFFF)
_BITS = 8
_STRIDE = np.uint32(0x9E3779B1)
_PAIRS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Sketches:
    """Of n texts: `values` (n, 128) uint8 tell how alike two are, `bands` (n, 21) uint32 which.

    Two texts whose sets of five words in a row have the Jaccard similarity s share a band with
    probability 1 - (1 - s^6)^21: 0.28 at s = 0.5, 0.93 at 0.7, 0.998 at 0.8.
    """

    values: np.ndarray
    bands: np.ndarray


def sketches(measures: Measures) -> Sketches:
    """The sketches of texts; those of texts without a word are all alike."""
    hashes, text = measures.shingles
    least = np.full(measures.count * BINS, _EMPTY)
    bins = text * BINS + (hashes >> np.uint64(57)).astype(np.int64)
    np.minimum.at(least, bins, (hashes >> np.uint64(20)).astype(np.uint32) & ~np.uint32(1))
    filled = _borrowed(least.reshape(measures.count, BINS))
    rows = filled[:, : BANDS * ROWS].reshape(-1, BANDS, ROWS).astype(np.uint64)
    factors = weights(np.arange(BANDS * ROWS)).reshape(BANDS, ROWS)
    bands = weights((rows * factors).sum(axis=2, dtype=np.uint64)) >> np.uint64(32)
    values = (filled * _STRIDE) >> np.uint32(32 - _BITS)
    return Sketches(values.astype(np.uint8), bands.astype(np.uint32))


def _borrowed(least: np.ndarray) -> np.ndarray:
    """An empty bin takes the value of the next full one to its left or right, and the distance.

    Which side is drawn once for each bin, so that the same bins of two texts go the same way.
    """
    empty = least == _EMPTY
    if not empty.any():
        return least
    places = np.arange(BINS)
    doubled = np.concatenate((~empty, ~empty), axis=1)
    at = np.where(doubled, np.arange(2 * BINS), -1)
    left = np.maximum.accumulate(at, axis=1)[:, BINS:] - BINS  # may be negative: round the corner
    at = np.where(doubled, np.arange(2 * BINS), 3 * BINS)
    right = np.minimum.accumulate(at[:, ::-1], axis=1)[:, ::-1][:, :BINS]
    goes_left = weights(places + BINS * BANDS) % np.uint64(2) == 0
    source = np.where(goes_left, left, right)
    distance = np.abs(source - places).astype(np.uint32)
    taken = np.take_along_axis(least, source % BINS, axis=1)
    return np.where(empty, taken + distance * _STRIDE, least)


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity of sketches (n, 128); standard error 0.035 at 0.8."""
    agree = (one == other).mean(axis=1)
    chance = 2.0**-_BITS
    return (agree - chance) / (1 - chance)


def near_pairs(found: Sketches, asked: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Pairs (earlier, later) of texts, of those `asked` for (bool), that are alike, (m, 2).

    In each band a text is compared with the first of those that share it and with the last before
    it, so that time stays linear however many copies there are.
    """
    kept = [np.empty((0, 2), np.int64)]
    members = np.flatnonzero(asked)
    for band in range(BANDS):
        keys = found.bands[members, band]
        order = members[np.argsort(keys, kind="stable")]
        keys = found.bands[order, band]
        new = np.ones(len(order), bool)
        new[1:] = keys[1:] != keys[:-1]
        first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
        again = np.flatnonzero(~new)
        pairs = np.concatenate(
            (
                np.stack((first[again], order[again]), axis=1),
                np.stack((order[again - 1], order[again]), axis=1),
            )
        )
        kept += [_alike(found.values, pairs[at : at + _PAIRS_AT_ONCE], threshold)
                 for at in range(0, len(pairs), _PAIRS_AT_ONCE)]  # fmt: skip
    return np.unique(np.concatenate(kept), axis=0)


def _alike(values: np.ndarray, pairs: np.ndarray, threshold: float) -> np.ndarray:
    return pairs[similarity(values[pairs[:, 0]], values[pairs[:, 1]]) >= threshold]


def groups(count: int, pairs: np.ndarray) -> np.ndarray:
    """For each of `count` things the least of those it is joined to by pairs, directly or not."""
    labels = np.arange(count)
    while True:
        low = np.minimum(labels[pairs[:, 0]], labels[pairs[:, 1]])
        before = labels.copy()
        for side in (0, 1):
            np.minimum.at(labels, before[pairs[:, side]], low)
            np.minimum.at(labels, pairs[:, side], low)
        labels = labels[labels]
        if (labels == before).all():
            return labels

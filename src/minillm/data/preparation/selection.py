"""Which documents are kept, and on which side of the split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..split import LEAST_DOCUMENTS, choose_documents
from .minhash import Sketches, groups, near_pairs
from .options import Options
from .parts import COLUMNS
from .quality import quality

KEPT, EMPTY, QUALITY, EXACT, NEAR = range(5)
REASONS = ("kept", "empty", "low quality", "exact duplicate", "near duplicate")


class Readable(Protocol):
    """A part, in a file or in memory."""

    def read(self, *names: str) -> list[Any]:
        """Arrays by name, as of `CleanPart.read`."""


class Catalogue:
    """The numbers of all sections of all parts, in order: about 250 bytes of memory for each."""

    def __init__(self, parts: Sequence[Readable]) -> None:
        columns = [part.read(*COLUMNS, "values", "bands") for part in parts]
        joined = [np.concatenate(column) for column in zip(*columns)]
        self._columns = dict(zip(COLUMNS, joined))
        self.sketches = Sketches(*joined[-2:])
        self.starts = np.cumsum([0, *(len(part[0]) for part in columns)])  # of parts

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]


@dataclass(frozen=True)
class Selection:
    """`reasons` (sections,) index REASONS. Of the documents with kept sections, in order: the first
    kept section, the characters, and the flags of those for validation; None if the end of the
    text is.
    """

    reasons: np.ndarray
    firsts: np.ndarray
    lengths: np.ndarray
    validation: np.ndarray | None


def select(catalogue: Catalogue, options: Options) -> Selection:
    """Decide by the rules that `options` ask for; the first of duplicates is kept.

    Raises ValueError where nothing is left. Documents that are alike are on one side of the split.
    """
    reasons = np.where(catalogue["characters"] == 0, EMPTY, KEPT).astype(np.uint8)
    low = quality(catalogue["broken"]) < options.min_quality - 1e-9
    reasons[(reasons == KEPT) & low] = QUALITY
    pairs = _exact_pairs(catalogue, reasons == KEPT)
    if options.dedup != "none":
        reasons[pairs[:, 1]] = EXACT
        pairs = pairs[:0]
    if options.dedup == "near" or options.val_fraction:
        worded = (reasons == KEPT) & (catalogue["words"] > 0)
        near = near_pairs(catalogue.sketches, worded, options.near)
        if options.dedup == "near":
            labels = groups(len(catalogue), near)
            reasons[(reasons == KEPT) & (labels < np.arange(len(labels)))] = NEAR
        else:
            pairs = np.concatenate((pairs, near))
    if not (reasons == KEPT).any():
        told = ", ".join(
            f"{int((reasons == reason).sum()):,} {REASONS[reason]}" for reason in (1, 2, 3, 4)
        )
        raise ValueError(f"prepare: no text is left ({told}), at least 1 document is needed")
    return _split(catalogue, reasons, pairs, options.val_fraction)


def _exact_pairs(catalogue: Catalogue, kept: np.ndarray) -> np.ndarray:
    """(first, later) of the sections of one text."""
    places = np.flatnonzero(kept)
    _, first, which = np.unique(catalogue["hash"][places], return_index=True, return_inverse=True)
    pairs = np.stack((places[first[which]], places), axis=1)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def _split(
    catalogue: Catalogue, reasons: np.ndarray, pairs: np.ndarray, fraction: float
) -> Selection:
    places = np.flatnonzero(reasons == KEPT)
    document = catalogue["document"][places]
    begins = np.ones(len(places), bool)
    begins[1:] = document[1:] != document[:-1]
    firsts = places[begins]
    which = np.cumsum(begins) - 1
    lengths = np.bincount(which, catalogue["characters"][places]).astype(np.int64)
    if not fraction:
        return Selection(reasons, firsts, lengths, np.zeros(len(firsts), bool))
    joined = np.concatenate((np.stack((firsts[which], places), axis=1), pairs))
    labels = groups(len(catalogue), joined)[firsts]
    keys = catalogue["hash"][labels]
    if len(firsts) < LEAST_DOCUMENTS or len(np.unique(keys)) < 2:
        return Selection(reasons, firsts, lengths, None)
    return Selection(reasons, firsts, lengths, choose_documents(keys, lengths, fraction))

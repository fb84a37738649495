"""Keeping text aside for validation, and telling how much of it training sees anyway."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress

import numpy as np

from .corpus import Corpus
from .lines import LINES_REMEMBERED, found_in, lines_of

LEAST_DOCUMENTS = 20
COMPARED_LINE_LENGTH = 10


@dataclass(frozen=True)
class SplitFacts:
    """What lies on either side of the split.

    `split` is "documents" (whole documents chosen by a hash of their text), "groups" (the same,
    near duplicates together), "tail" (the end of the text) or "none". A document that the border
    of a tail split cuts counts on both sides.
    `overlap` is the share of the validation lines of at least 10 characters that also occur in
    training, None without such lines; 2,097,152 validation lines are compared at most. It is not
    `measured` where whole documents were compared before the split.
    """

    split: str
    train_tokens: int
    val_tokens: int
    train_documents: int
    val_documents: int
    overlap: float | None
    measured: bool = True

    def lines_for_people(self) -> list[str]:
        """The facts in words, one finding a line."""
        lines = [
            f"training: {self.train_tokens:,} tokens of {self.train_documents:,} document"
            f"{'' if self.train_documents == 1 else 's'}"
        ]
        if self.split == "none":
            return [*lines, "validation: none"]
        how = {
            "documents": "whole documents, chosen by a hash of their text",
            "groups": "whole documents, near duplicates on one side",
            "tail": "the end of the text",
        }[self.split]
        share = self.val_tokens / (self.train_tokens + self.val_tokens)
        lines.append(
            f"validation: {self.val_tokens:,} tokens ({share:.1%}) of "
            f"{self.val_documents:,} document{'' if self.val_documents == 1 else 's'}, "
            f"{how}"
        )
        if not self.measured:
            told = ["overlap: not measured; what is equal or alike may be on both sides"]
            return lines + told * (self.split == "tail")
        if self.overlap is None:
            lines.append(
                f"overlap: not measured, no validation line has {COMPARED_LINE_LENGTH} characters"
            )
        elif self.overlap:
            lines.append(
                f"overlap: {self.overlap:.1%} of the validation lines also occur in "
                "training, so that validation loss in part measures memory"
            )
        return lines


def choose_documents(hashes: np.ndarray, lengths: np.ndarray, fraction: float) -> np.ndarray:
    """Which documents are kept for validation, (documents,) bool.

    Distinct documents in the order of their hashes, those longer than the share asked for left
    out, until the characters are as close to `fraction` of all as they get; one at least, never
    all. Documents of one hash fall on one side.
    """
    distinct, which = np.unique(hashes, return_inverse=True)
    sizes = np.bincount(which, weights=lengths)
    target = fraction * sizes.sum()
    fitting = np.flatnonzero(sizes <= target)[: len(distinct) - 1]
    chosen = np.zeros(len(distinct), bool)
    if len(fitting):
        reached = np.cumsum(sizes[fitting])
        chosen[fitting[: 1 + int(np.abs(reached - target).argmin())]] = True
    else:
        chosen[sizes.argmin()] = True
    return chosen[which]


@dataclass(frozen=True)
class Sides:
    """Which text is for validation: the documents flagged, or all that begins at `border`.

    `border` counts characters from the start of the first document.
    """

    flags: np.ndarray | None
    border: int = 0

    def documents(self, lengths: np.ndarray) -> tuple[int, int]:
        """How many documents have text for training, and for validation."""
        if self.flags is not None:
            kept = int(self.flags.sum())
            return len(self.flags) - kept, kept
        ends = np.cumsum(lengths)
        return int((ends - lengths < self.border).sum()), int((ends > self.border).sum())

    def lines(self, corpus: Corpus, validation: bool) -> Iterator[np.ndarray]:
        """Yield the hashes of the lines of one side that are long enough, as they are read.

        The line that the border cuts is a training line.
        """
        if self.flags is not None:
            chosen = compress(corpus.documents(), self.flags == validation)
            for lines in lines_of(document.pieces() for document in chosen):
                yield lines.hashes[lines.lengths >= COMPARED_LINE_LENGTH]
            return
        first = 0
        for document, length in zip(corpus.documents(), corpus.document_lengths):
            end = first
            for lines in lines_of([document.pieces()]):
                ends = end + np.cumsum(lines.lengths + 1)
                end = int(ends[-1]) if len(ends) else end
                wanted = lines.lengths >= COMPARED_LINE_LENGTH
                wanted &= (ends - lines.lengths - 1 >= self.border) == validation
                yield lines.hashes[wanted]
            first += length


def overlap(corpus: Corpus, sides: Sides) -> float | None:
    """Share of the validation lines that also occur in training; reads the corpus twice."""
    kept, count = [], 0
    for hashes in sides.lines(corpus, validation=True):
        kept.append(hashes[: LINES_REMEMBERED - count])
        count += len(kept[-1])
    if not count:
        return None
    distinct, copies = np.unique(np.concatenate(kept), return_counts=True)
    seen = np.zeros(len(distinct), bool)
    for hashes in sides.lines(corpus, validation=False):
        seen[found_in(distinct, hashes)[1]] = True
    return int(copies[seen].sum()) / count

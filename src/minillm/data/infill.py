"""Filling in the middle (Bavarian et al. 2022): a text in an order that teaches it to a decoder.

prefix, suffix, middle:  PREFIX prefix SUFFIX suffix MIDDLE middle end
suffix, prefix, middle:  PREFIX SUFFIX suffix MIDDLE prefix middle end  (the paper's joint form)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..tokenizers import Tokenizer

NAMES = (  # prefix, suffix, middle: ours and Qwen's, StarCoder's
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)
ADDED = 4  # tokens: three marks and the end


class Marks(NamedTuple):
    """Ids of the control tokens."""

    prefix: int
    suffix: int
    middle: int

    def asking(self, prefix: list[int], suffix: list[int]) -> list[int]:
        """What a model reads that is to write the middle."""
        return [self.prefix, *prefix, self.suffix, *suffix, self.middle]


ASKED = (
    "one of a model that learnt to fill in is needed; train one with: minillm train FILE "
    "--objective fim"
)


def marks_of(tokenizer: Tokenizer, command: str, advice: str = ASKED) -> Marks:
    """Those of a tokenizer; ValueError with advice for one without."""
    for names in NAMES:
        if all(name in tokenizer.special_tokens for name in names):
            return Marks(*(tokenizer.special_tokens[name] for name in names))
    raise ValueError(
        f"{command}: the {tokenizer.kind} tokenizer has no {NAMES[0][0]} token, {advice}"
    )


class Infilling:
    """Turns rows of a text into rows that are filled in, a share `rate` of them.

    Of those a share `spm` has the suffix first. What happens to a row depends on its ids and (seed,
    kind, number) alone. The middle begins and ends anywhere in the longest document of the row.
    """

    def __init__(self, marks: Marks, end: int, seed: int, rate: float, spm: float) -> None:
        self.marks, self.end, self.seed, self.rate, self.spm = marks, end, seed, rate, spm

    def __call__(self, row: np.ndarray, kind: int, number: int) -> tuple[np.ndarray, slice]:
        """A row as long as `row`, and where its middle and the end token stand, if it has them.

        The marks take the places of the last tokens, which are left out.
        """
        sequence = np.random.SeedSequence((self.seed, number), spawn_key=(kind,))
        raw = np.random.Philox(sequence).random_raw(4)
        shares = (raw[:2] >> np.uint64(11)) * 2.0**-53
        begin, end = self._longest(row[: len(row) - ADDED])
        if shares[0] >= self.rate or begin == end:
            return row, slice(0, 0)
        first, last = sorted(int(n % np.uint64(end - begin + 1)) + begin for n in raw[2:])
        prefix, middle, suffix = row[begin:first], row[first:last], row[last:end]
        mark = self.marks
        before: list[Any]
        if shares[1] < self.spm:
            before = [[mark.prefix, mark.suffix], suffix, [mark.middle], prefix]
        else:
            before = [[mark.prefix], prefix, [mark.suffix], suffix, [mark.middle]]
        filled = np.concatenate([*before, middle, [self.end]]).astype(row.dtype)
        behind = end + (row[end] == self.end)  # it ended there anyway
        out = np.concatenate((row[:begin], filled, row[behind:]))[: len(row)]
        stop = begin + len(filled)
        return out, slice(stop - 1 - len(middle), stop)

    def _longest(self, row: np.ndarray) -> tuple[int, int]:
        """Where the longest document, or part of one, begins and ends."""
        borders = np.concatenate(([-1], np.flatnonzero(row == self.end), [len(row)]))
        place = int(np.diff(borders).argmax())
        return int(borders[place]) + 1, int(borders[place + 1])

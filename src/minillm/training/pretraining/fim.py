"""Each token from those before it, where middles often come last: a GPT-2 that fills in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from minillm.arrays import numbers
from minillm.data import Dataset, Facts
from minillm.data.infill import ADDED, NAMES, Infilling, marks_of
from minillm.data.windows import validation_starts
from minillm.tokenizers import Tokenizer
from minillm.tokenizers.tokenizer import END_OF_TEXT
from minillm.training.language import LanguageModelling
from minillm.training.objective import IGNORED
from minillm.training.pretraining import causal
from minillm.training.settings import Settings

LEARNT = "one that has it is needed; train on texts, and one is learnt"
TRAINING, VALIDATION = 4, 5  # kinds of rows: each has middles of its own


class FillingIn(LanguageModelling):
    """Windows of a dataset, some with their middle last; all tokens are learnt.

    Validation measures the text as it is, as for a plain language model, and in "val_infill_loss"
    the tokens of middles, and their ends, behind prefix and suffix.
    """

    infilling: Infilling
    asking: Infilling

    @classmethod
    def of(cls, settings: Settings, tokenizer: Tokenizer, dataset: Dataset) -> FillingIn:
        made = super().of(settings, tokenizer, dataset)
        marks, end = marks_of(tokenizer, "train"), tokenizer.eos_id
        assert end is not None
        made.infilling = Infilling(
            marks, end, settings.seed, settings.fim_rate, settings.fim_suffix_first
        )
        made.asking = Infilling(marks, end, settings.seed, 1.0, 0.0)
        return made

    def batch(self, first_sample: int, size: int) -> Any:
        inputs, targets = super().batch(first_sample, size)
        rows = numpy.concatenate((inputs, targets[:, -1:]), axis=1)
        for place in range(size):
            rows[place], _ = self.infilling(rows[place], TRAINING, first_sample + place)
        return numpy.ascontiguousarray(rows[:, :-1]), numpy.ascontiguousarray(rows[:, 1:])

    def evaluate(self, model: Any, limit: int | None) -> Mapping[str, float]:
        tokens, losses, count = self.dataset.val, [], 0
        assert tokens is not None
        for starts, length in validation_starts(len(tokens), self.context, self.rows, limit):
            inputs, targets = self.middles(tokens.rows(starts, length + 1), starts)
            found = int((targets != IGNORED).sum())
            if found:
                losses.append(self.loss(model, (inputs, targets)).data)
            count += found
        plain = dict(super().evaluate(model, limit))
        return plain | ({"val_infill_loss": sum(numbers(losses)) / count} if count else {})

    def middles(self, rows: numpy.ndarray, numbers: Any) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Inputs and targets of rows (B, T + 1), where only the middles have targets."""
        targets = numpy.full_like(rows, IGNORED)
        for place, number in enumerate(numbers):
            if rows.shape[1] > ADDED:
                rows[place], middle = self.asking(rows[place], VALIDATION, int(number))
                targets[place, middle] = rows[place, middle]
        return numpy.ascontiguousarray(rows[:, :-1]), numpy.ascontiguousarray(targets[:, 1:])


def specials(kind: str, facts: Facts) -> tuple[str, ...]:
    return (END_OF_TEXT, *NAMES[0])


def check(settings: Settings, tokenizer: Tokenizer) -> None:
    marks_of(tokenizer, "train", LEARNT)
    if tokenizer.eos_id is None:
        raise ValueError(
            f"train: the {tokenizer.kind} tokenizer has no end token, one behind each middle is "
            "needed for --objective fim"
        )
    if (settings.context or 0) <= ADDED:
        raise ValueError(
            f"context: {settings.context}, {ADDED + 1} or more is needed: {ADDED} of it are "
            "control tokens"
        )
    causal.check(settings, tokenizer)


PRETRAINING = causal.PRETRAINING._replace(
    specials=specials,
    check=check,
    objective=FillingIn.of,
    next_command='generate {run} --fill-in "..." "..."',
)

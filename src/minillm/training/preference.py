"""Preferences as an objective: of two answers to a prompt the chosen one is to be the likelier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minillm import ops
from minillm.data.learnt import Batch, Examples, Parts
from minillm.tensor import Tensor, no_grad
from minillm.tokenizers import Tokenizer
from minillm.training.answers import AnswerModelling
from minillm.training.objective import IGNORED, Best

REFERENCE = "reference"  # what the model said of each example before it was tuned


class Pairs(NamedTuple):
    """A batch whose rows are chosen and rejected in turn, and what the reference said of them."""

    answers: Batch
    said: np.ndarray


class Preference(AnswerModelling):
    """Direct preference optimisation (Rafailov et al. 2023), or SimPO (Meng et al. 2024).

    The loss of a pair is -log sigmoid(margin). For DPO the margin is beta times what the model
    gained in log-probability over the reference on the chosen answer, less that on the rejected;
    for SimPO beta times the difference of their mean log-probabilities a token, less gamma.
    Examples 2 i and 2 i + 1 are a chosen and a rejected answer.
    """

    unit = "pairs"
    best = Best("val_accuracy", highest=True)

    def __init__(
        self,
        tokenizer: Tokenizer,
        parts: Parts,
        *,
        batch: int,
        seed: int,
        beta: float,
        gamma: float | None = None,
    ) -> None:
        super().__init__(tokenizer, parts, batch=batch, seed=seed)
        self.beta, self.gamma = beta, gamma

    def count(self, examples: Examples) -> int:
        return len(examples) // 2

    def batch(self, first_sample: int, size: int) -> Pairs:  # type: ignore[override]
        return self._pairs(self.parts.train, self.order.samples(first_sample, size))

    def _pairs(self, part: Examples, pairs: np.ndarray) -> Pairs:
        places = np.stack([2 * pairs, 2 * pairs + 1], axis=1).reshape(-1)
        said = part.more.get(REFERENCE, np.zeros(len(part)))[places]
        return Pairs(part.batch(places), said)

    def tokens(self, batch: Any) -> int:
        return batch.answers.length

    def targets(self, batch: Any) -> int:
        return len(batch.said) // 2

    def excerpt(self, batch: Any) -> str:
        return super().excerpt(batch.answers)

    def margins(self, model: Any, batch: Any) -> Tensor:
        """(pairs,)"""
        answers, said = batch
        nats = model.loss(answers.inputs, answers.targets, reduction="none").sum(axis=1)
        if self.gamma is None:
            gained = -nats - said.astype(nats.dtype)
            return self.beta * (gained[0::2] - gained[1::2])
        lengths = (answers.targets != IGNORED).sum(axis=1).astype(nats.dtype)
        mean = -nats / lengths
        return self.beta * (mean[0::2] - mean[1::2]) - self.gamma

    def loss(self, model: Any, batch: Any) -> Tensor:
        return -log_sigmoid(self.margins(model, batch)).sum()

    def evaluate(self, model: Any, limit: int | None) -> Mapping[str, float]:
        found = [
            self.margins(model, self._pairs(self.parts.val, pairs)).numpy().astype(np.float64)
            for pairs in self.validated(limit)
        ]
        margins = np.concatenate(found)
        right = margins + (self.gamma or 0.0) > 0
        loss = np.logaddexp(0.0, -margins).mean()
        return {
            "val_loss": float(loss),
            "val_accuracy": float(right.mean()),
            "val_margin": float(margins.mean()),
        }


def log_sigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + exp(-x))), without overflow."""
    size = ops.relu(x) + ops.relu(-x)
    return -(ops.relu(-x) + ((-size).exp() + 1).log())


def log_probabilities(model: Any, examples: Examples, rows: int) -> Iterator[np.ndarray]:
    """The log-probability of the learnt ids of each example, batch by batch, float64."""
    for at in range(0, len(examples), rows):
        batch = examples.batch(np.arange(at, min(at + rows, len(examples))))
        with no_grad():
            nats = model.loss(batch.inputs, batch.targets, reduction="none").numpy()
        yield -nats.astype(np.float64).sum(axis=1)

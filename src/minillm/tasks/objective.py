"""A task on an encoder as what a run trains for: labelled examples, a loss, and figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from minillm.data.order import AlikeInLength
from minillm.tasks.encoding import Batch, Encoding
from minillm.tensor import Tensor
from minillm.training.objective import IGNORED

if TYPE_CHECKING:
    from minillm.tasks.task import Task

TEXT_SHOWN = 80


class Learnt(NamedTuple):
    """A batch and what the model should give for it."""

    given: Batch
    targets: numpy.ndarray


class LabelledExamples:
    """Rows of examples of a task, in an order drawn from (seed, epoch), like lengths together.

    `train` and `val` are examples; without `val` nothing is measured. The metrics of validation are
    those of the task, and the loss of a target.
    """

    unit = "examples"

    def __init__(
        self,
        task: Task,
        encoding: Encoding,
        labels: Sequence[str],
        train: Sequence[Any],
        val: Sequence[Any],
        *,
        batch: int,
        seed: int,
    ) -> None:
        self.task, self.encoding, self.labels = task, encoding, tuple(labels)
        self.val, self.rows_at_once, self.best = val, batch, task.best
        self.tokenizer = encoding.tokenizer
        self.rows, self.notices = task.rows(encoding, [task.input(one) for one in train])
        self.learnt = [task.targets(row, train[row.example], labels) for row in self.rows]
        self.order = AlikeInLength([len(row.ids) for row in self.rows], batch, seed)
        self.fingerprint = fingerprint(labels, train, val)

    @property
    def sample_tokens(self) -> float:
        return sum(len(row.ids) for row in self.rows) / len(self.rows)

    @property
    def validation_size(self) -> int:
        return len(self.val)

    def batch(self, first_sample: int, size: int) -> Learnt:
        places = self.order.samples(first_sample, size)
        given = self.encoding.batch([self.rows[place] for place in places])
        return Learnt(given, self.task.stacked([self.learnt[place] for place in places]))

    def tokens(self, batch: Learnt) -> int:
        return int(batch.given.mask.sum())

    def targets(self, batch: Learnt) -> int:
        return int((batch.targets != IGNORED).sum())

    def loss(self, model: Any, batch: Learnt) -> Tensor:
        ids, mask, segments = batch.given
        return model.loss(ids, batch.targets, mask, segments, reduction="sum")

    def excerpt(self, batch: Learnt) -> str:
        return self.tokenizer.decode(batch.given.ids[0].tolist())[:TEXT_SHOWN]

    def evaluate(self, model: Any, limit: int | None) -> Mapping[str, float]:
        size = len(self.val) if limit is None else min(limit, len(self.val))
        chosen = [self.val[k * len(self.val) // size] for k in range(size)]
        rows, _ = self.task.rows(self.encoding, [self.task.input(one) for one in chosen])
        outputs = self.encoding.outputs(model, rows, self.rows_at_once)
        nats, count = 0.0, 0
        for row, output in zip(rows, outputs, strict=True):
            targets = self.task.targets(row, chosen[row.example], self.labels)[None]
            nats += model.loss_of(Tensor(output[None]), targets, reduction="sum").item()
            count += int((targets != IGNORED).sum())
        predictions = self.task.decode(rows, outputs, self.labels, len(chosen))
        metrics = self.task.metrics(chosen, predictions)
        measured = {f"val_{name}": metric.value for name, metric in metrics.items()}
        return {"val_loss": nats / max(1, count), **measured}

    def sample(self, model: Any, tokens: int) -> None:
        return None


def fingerprint(labels: Sequence[str], *parts: Sequence[Any]) -> str:
    """SHA-256 of examples and labels, in hexadecimal."""
    content = [list(labels), *([list(example[1:]) for example in part] for part in parts)]
    return hashlib.sha256(json.dumps(content).encode("utf-8")).hexdigest()

"""Learning answers as an objective: texts of which some tokens are learnt, others only read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minillm.arrays import numbers
from minillm.data.learnt import Batch, Examples, Parts
from minillm.data.order import Order
from minillm.generation import generate
from minillm.tensor import Tensor
from minillm.tokenizers import Tokenizer
from minillm.training.objective import BY_LOSS, IGNORED, smoothing

TEXT_SHOWN = 80


class AnswerModelling:
    """Examples padded side by side; measured in nats for each learnt token.

    Samples are answers, the most probable token each time, to the first example held out.
    """

    unit = "examples"
    best = BY_LOSS

    def __init__(
        self,
        tokenizer: Tokenizer,
        parts: Parts,
        *,
        batch: int,
        seed: int,
        label_smoothing: float = 0.0,
    ) -> None:
        self.tokenizer, self.parts, self.rows = tokenizer, parts, batch
        self.label_smoothing = label_smoothing
        self.fingerprint = parts.fingerprint
        self.order = Order(self.count(parts.train), seed)

    def count(self, examples: Examples) -> int:
        """How many samples there are in some examples."""
        return len(examples)

    @property
    def sample_tokens(self) -> float:
        train = self.parts.train
        return (len(train.ids) - len(train)) / self.count(train)

    @property
    def validation_size(self) -> int:
        return self.count(self.parts.val)

    def batch(self, first_sample: int, size: int) -> Batch:
        return self.parts.train.batch(self.order.samples(first_sample, size))

    def tokens(self, batch: Batch) -> int:
        return batch.length

    def targets(self, batch: Batch) -> int:
        return int((batch.targets != IGNORED).sum())

    def loss(self, model: Any, batch: Batch) -> Tensor:
        how = {"reduction": "sum", "label_smoothing": smoothing(model, self.label_smoothing)}
        return model.loss(batch.inputs, batch.targets, **how)

    def excerpt(self, batch: Batch) -> str:
        return self.tokenizer.decode(batch.inputs[0][:TEXT_SHOWN])[:TEXT_SHOWN]

    def evaluate(self, model: Any, limit: int | None) -> Mapping[str, float]:
        losses, targets = [], 0
        for places in self.validated(limit):
            batch = self.parts.val.batch(places)
            losses.append(self.loss(model, batch).data)
            targets += self.targets(batch)
        return {"val_loss": sum(numbers(losses)) / targets}

    def validated(self, limit: int | None) -> list[np.ndarray]:
        """The samples of each batch of a validation, spread evenly where not all are looked at."""
        whole = self.validation_size
        some = whole if limit is None else max(1, min(whole, limit))
        chosen = np.arange(some) * whole // some
        return [chosen[at : at + self.rows] for at in range(0, some, self.rows)]

    def sample(self, model: Any, tokens: int) -> tuple[str, str] | None:
        part = self.parts.val if len(self.parts.val) else self.parts.train
        ids, learnt = part.text(0)
        begin = max(1, int(np.argmax(learnt[1:])) + 1)
        prompt = [int(id) for id in ids[:begin]]
        room = model.config.context
        if room is not None:
            tokens = min(tokens, max(1, room - len(prompt)))
        text = generate(model, self.tokenizer, prompt, max_tokens=tokens, temperature=0.0)
        return self.tokenizer.decode(prompt), text

"""Translation as what a run trains for: the target of each pair, token by token, from its source.

Teacher forcing: each token is learnt from the source and the true tokens before it, the end token
among them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy

from minillm.arrays import new_generator, numbers
from minillm.data.order import AlikeInLength
from minillm.models.embedding import alike, padded
from minillm.tasks.overlap import bleu, chrf
from minillm.tasks.translation.decoding import Translator
from minillm.tasks.translation.halving import Halving
from minillm.tasks.translation.pairs import Pair
from minillm.tensor import Tensor
from minillm.tokenizers import Tokenizer
from minillm.training.objective import IGNORED, Best

TEXT_SHOWN = 80


class Batch(NamedTuple):
    """Sources padded on the right, ids and mask (B, S); targets (B, T), IGNORED where padded."""

    ids: numpy.ndarray
    mask: numpy.ndarray
    targets: numpy.ndarray


class Translating:
    """Pairs in an order drawn from (seed, epoch), those of like length together.

    Measured by the loss of a target token without smoothing, and by chrF and BLEU of greedy
    translations. `subword_dropout` cuts training texts into smaller pieces, anew each time a pair
    is seen, as a function of (seed, sample number).
    """

    unit = "examples"
    best = Best("val_chrf", highest=True)

    def __init__(
        self,
        tokenizer: Tokenizer,
        train: Sequence[Pair],
        val: Sequence[Pair],
        *,
        batch: int,
        seed: int,
        label_smoothing: float = 0.0,
        subword_dropout: float = 0.0,
    ) -> None:
        self.tokenizer, self.train, self.val = tokenizer, train, val
        self.rows_at_once, self.seed, self.label_smoothing = batch, seed, label_smoothing
        self.pad = tokenizer.role_ids["pad"]
        self.halved = Halving(tokenizer, subword_dropout) if subword_dropout else None
        self.rows, self.val_rows = (
            [rows_of(tokenizer, pair) for pair in part] for part in (train, val)
        )
        lengths = [len(source) + len(target) for source, target in self.rows]
        self.sample_tokens = sum(lengths) / len(lengths)
        self.order = AlikeInLength(lengths, batch, seed)
        self.fingerprint = fingerprint(tokenizer, train, val)

    @property
    def validation_size(self) -> int:
        return len(self.val)

    def batch(self, first_sample: int, size: int) -> Batch:
        numbers = range(first_sample, first_sample + size)
        places = self.order.samples(first_sample, size).tolist()
        return self.stacked(
            [self.drawn(place, number) for place, number in zip(places, numbers, strict=True)]
        )

    def drawn(self, place: int, number: int) -> tuple[list[int], list[int]]:
        """The ids of a pair as the sample of this number has them."""
        source, target = self.rows[place]
        if self.halved is None:
            return source, target
        stream = new_generator(self.seed, number)
        return self.halved(source, stream), self.halved(target, stream)

    def stacked(self, rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
        ids, mask = padded([source for source, _ in rows], self.pad)
        targets, _ = padded([target for _, target in rows], IGNORED)
        return Batch(ids, mask, targets)

    def tokens(self, batch: Batch) -> int:
        return int(batch.mask.sum()) + self.targets(batch)

    def targets(self, batch: Batch) -> int:
        return int((batch.targets != IGNORED).sum())

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return self._loss(model, batch, self.label_smoothing)

    def _loss(self, model: Any, batch: Batch, smoothing: float) -> Tensor:
        loss: Tensor = model.loss(
            batch.ids, batch.targets, batch.mask, reduction="sum", label_smoothing=smoothing
        )
        return loss

    def excerpt(self, batch: Batch) -> str:
        return self.tokenizer.decode(batch.ids[0].tolist())[:TEXT_SHOWN]

    def evaluate(self, model: Any, limit: int | None) -> Mapping[str, float]:
        n = len(self.val)
        size = n if limit is None else min(limit, n)
        chosen = [k * n // size for k in range(size)]
        losses, count = [], 0
        rows = [self.val_rows[place] for place in chosen]
        for places in alike([len(source) + len(t) for source, t in rows], self.rows_at_once):
            batch = self.stacked([rows[place] for place in places])
            losses.append(self._loss(model, batch, 0.0).data)
            count += self.targets(batch)
        pairs = [self.val[place] for place in chosen]
        written = Translator(model, self.tokenizer)([pair.source for pair in pairs])
        references, given = [pair.target for pair in pairs], [one.text for one in written]
        return {
            "val_loss": sum(numbers(losses)) / count,
            "val_chrf": chrf(references, given).value,
            "val_bleu": bleu(references, given).value,
        }

    def sample(self, model: Any, tokens: int) -> tuple[str, str] | None:
        """The translation of one source, of any length."""
        source = (self.val or self.train)[0].source
        return f"{source} ", f"-> {Translator(model, self.tokenizer)([source])[0].text}"


def rows_of(tokenizer: Tokenizer, pair: Pair) -> tuple[list[int], list[int]]:
    """The ids of both sides, each with its end token."""
    source, target = (
        tokenizer.encode(text, add_special_tokens=True) for text in (pair.source, pair.target)
    )
    return source, target


def fingerprint(tokenizer: Tokenizer, *parts: Sequence[Pair]) -> str:
    """SHA-256 of the pairs and the tokenizer, in hexadecimal."""
    content = [tokenizer.fingerprint, *([list(pair[1:]) for pair in part] for part in parts)]
    return hashlib.sha256(json.dumps(content).encode("utf-8")).hexdigest()

"""Vectors that tell what belongs together: contrastive training on pairs of texts.

The second text of a pair is told from those of the other pairs of the batch (InfoNCE, van den Oord
et al. 2018), the cosine by the temperature being the logit. Pairs with scores teach the cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from minillm import kernels, ops
from minillm.data.order import AlikeInLength
from minillm.models import embedding
from minillm.models.embedding import Embedder, pool
from minillm.models.sentence_folder import write_settings
from minillm.quantities import counted
from minillm.tasks import heads
from minillm.tasks.examples import Read
from minillm.tasks.objective import TEXT_SHOWN, fingerprint
from minillm.tasks.similarity import Pair, measured, read_pairs
from minillm.tasks.task import Work
from minillm.tensor import Tensor, no_grad
from minillm.training.objective import Best

TEMPERATURE = 0.05


class Paired(NamedTuple):
    """Ids and mask of the first texts (B, T) and of the candidates (C, T'), the second texts first.

    `barred` (B, C) is where a candidate belongs to the first text as well as its own second one.
    `scores` (B,) or None.
    """

    first: tuple[numpy.ndarray, numpy.ndarray]
    second: tuple[numpy.ndarray, numpy.ndarray]
    barred: numpy.ndarray
    scores: numpy.ndarray | None


class Likeness(Work):
    """Texts that belong together, or are alike by so much."""

    name = "embed"
    head = "Model"
    kind = Pair
    rate_share = 1 / 6
    unread = ("pooler.",)

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        return read_pairs(path, columns, on_bad)

    def labels(self, examples: Sequence[Pair]) -> tuple[str, ...]:
        """There are none; ValueError for pairs that teach nothing, or that are of two kinds."""
        require_one_kind(examples)
        if examples[0].score is not None:
            scale_of([pair.score for pair in examples])
        elif len({pair.second for pair in examples} | {pair.negative for pair in examples}) < 3:
            raise ValueError(
                f"embed: all {counted(len(examples), 'pair')} have the second text "
                f"{examples[0].second[:40]!r}, at least 2 different ones are needed"
            )
        return ()

    def text(self, example: Pair) -> str:
        return example.second

    def texts(self, example: Pair) -> tuple[str, ...]:
        return example.first, example.second

    def new_model(self, base: Path, labels: tuple[str, ...], seed: int) -> Any:
        return embedding.load_body(base, heads.has_pooler(base))

    def objective(self, model: Any, parts: Any, settings: Any) -> PairedTexts:
        embedder = embedding.around(model, Path(settings.base))
        if settings.max_length is not None:
            embedder.max_length = min(settings.max_length, embedder.max_length)
        if settings.temperature is not None and parts.train[0].score is not None:
            raise ValueError(
                f"temperature: {settings.temperature:g} with a column score, which the cosine "
                "itself is to learn; leave it out"
            )
        temperature = settings.temperature or TEMPERATURE
        return PairedTexts(
            embedder,
            parts.train,
            parts.val,
            batch=settings.batch,
            seed=settings.seed,
            temperature=temperature,
        )

    def describe(self, folder: Path, model: Any, objective: PairedTexts) -> None:
        super().describe(folder, model, objective)
        e = objective.embedder
        options = e.modes, e.normalize, e.max_length, e.lowercase, e.prompt
        write_settings(folder, e.dimensions, *options)


class PairedTexts:
    """Pairs in an order drawn from (seed, epoch), their second texts of like length together.

    A second text that is equal to another's, or belongs to an equal first text, counts as no
    negative of it. The metrics of validation are those of `similarity`, among the texts held out.
    """

    unit = "examples"

    def __init__(
        self,
        embedder: Embedder,
        train: Sequence[Pair],
        val: Sequence[Pair],
        *,
        batch: int,
        seed: int,
        temperature: float = TEMPERATURE,
    ) -> None:
        require_one_kind([*train, *val])
        self.embedder, self.tokenizer = embedder, embedder.tokenizer
        self.train, self.val, self.temperature = train, val, temperature
        scored = train[0].score is not None
        self.scale = scale_of([pair.score for pair in train]) if scored else None
        if not scored and batch < 2 and train[0].negative is None:
            raise ValueError(
                f"embed: a batch of {batch} pair has no other second text to tell its own from, "
                "2 or more are needed; or a column negative"
            )
        self.best = Best("val_spearman" if scored else "val_mrr", highest=True)
        self.rows_at_once = batch
        self.rows, cut = [], 0
        for pair in train:
            texts = [text for text in (pair.first, pair.second, pair.negative) if text is not None]
            found = [embedder.tokenize(text) for text in texts]
            cut += sum(extra > 0 for _, extra in found)
            self.rows.append([ids for ids, _ in found])
        told = f"{counted(cut, 'text')} cut to {counted(embedder.max_length, 'token')}"
        self.notices = [told] * (cut > 0)
        self.order = AlikeInLength([len(row[1]) for row in self.rows], batch, seed)
        self.fingerprint = fingerprint((), train, val)

    @property
    def sample_tokens(self) -> float:
        return sum(len(ids) for row in self.rows for ids in row) / len(self.rows)

    @property
    def validation_size(self) -> int:
        return len(self.val)

    def batch(self, first_sample: int, size: int) -> Paired:
        places = self.order.samples(first_sample, size)
        return self._batch([self.train[k] for k in places], [self.rows[k] for k in places])

    def _batch(self, pairs: Sequence[Pair], rows: Sequence[Sequence[list[int]]]) -> Paired:
        first = self.embedder.batch([row[0] for row in rows])
        if self.scale is not None:
            second = self.embedder.batch([row[1] for row in rows])
            scores = numpy.array([pair.score for pair in pairs], numpy.float32) / self.scale
            return Paired(first, second, numpy.zeros((len(rows), len(rows)), bool), scores)
        right = [{pair.second} for pair in pairs]
        candidates = [pair.second for pair in pairs]
        for mine, pair in zip(right, pairs, strict=True):
            mine.update(other.second for other in pairs if other.first == pair.first)
        if pairs[0].negative is not None:
            candidates += [str(pair.negative) for pair in pairs]
        barred = numpy.array([[text in mine for text in candidates] for mine in right])
        barred[numpy.arange(len(pairs)), numpy.arange(len(pairs))] = False
        seconds = [ids for k in range(1, len(rows[0])) for ids in (row[k] for row in rows)]
        return Paired(first, self.embedder.batch(seconds), barred, None)

    def tokens(self, batch: Paired) -> int:
        return int(batch.first[1].sum() + batch.second[1].sum())

    def targets(self, batch: Paired) -> int:
        return len(batch.first[0])

    def loss(self, model: Any, batch: Paired) -> Tensor:
        first, second = (self.vectors(model, *side) for side in (batch.first, batch.second))
        if batch.scores is not None:
            return (((first * second).sum(axis=1) - batch.scores) ** 2).sum()
        with kernels.precision("f32"):  # cosines by the temperature ask for more than 8 bits
            logits = ops.linear(first, second) / self.temperature
        if batch.barred.any():
            logits = logits.masked_fill(batch.barred, -numpy.inf)
        return ops.cross_entropy(logits, numpy.arange(len(logits)), reduction="sum")

    def vectors(self, model: Any, ids: numpy.ndarray, mask: numpy.ndarray) -> Tensor:
        return pool(model.features(ids, mask), mask, self.embedder.modes, normalize=True)

    def excerpt(self, batch: Paired) -> str:
        return self.tokenizer.decode(batch.first[0][0].tolist())[:TEXT_SHOWN]

    def evaluate(self, model: Any, limit: int | None) -> Mapping[str, float]:
        size = len(self.val) if limit is None else min(limit, len(self.val))
        chosen = [self.val[k * len(self.val) // size] for k in range(size)]
        loss = 0.0
        for start in range(0, size, self.rows_at_once):
            pairs = chosen[start : start + self.rows_at_once]
            texts = [[pair.first, pair.second, pair.negative] for pair in pairs]
            rows = [[self.embedder.tokenize(t)[0] for t in three if t] for three in texts]
            with no_grad():
                loss += self.loss(model, self._batch(pairs, rows)).item()
        metrics = measured(self.embedder, chosen)
        found = {f"val_{name}": metric.value for name, metric in metrics.items()}
        return {"val_loss": loss / size} | found

    def sample(self, model: Any, tokens: int) -> None:
        return None


def require_one_kind(pairs: Sequence[Pair]) -> None:
    """ValueError unless all pairs have the same fields."""
    if len({(pair.score is None, pair.negative is None) for pair in pairs}) > 1:
        raise ValueError("embed: pairs with and without score or negative, one kind is needed")


def scale_of(scores: Sequence[float | None]) -> float:
    """What scores are divided by to be cosines: 1, or the highest where that is more than 1.

    ValueError for scores below -1, and below 0 where one is above 1.
    """
    given = numpy.array(scores, numpy.float64)
    low, high = float(given.min()), float(given.max())
    if low < (-1 if high <= 1 else 0):
        raise ValueError(
            f"embed: scores from {low:g} to {high:g}, -1 to 1 or 0 to any highest are needed"
        )
    return max(1.0, high)

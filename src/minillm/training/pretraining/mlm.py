"""Hidden tokens from those around them (Devlin et al. 2018): a BERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy

from minillm import ops
from minillm.data import Dataset, Facts, Windows
from minillm.data.masking import Masking
from minillm.data.windows import validation_starts
from minillm.models import Bert, BertConfig
from minillm.tensor import Tensor
from minillm.tokenizers import Tokenizer
from minillm.training.objective import BY_LOSS, IGNORED, smoothing
from minillm.training.pretraining import Pretraining
from minillm.training.settings import Settings

TRAINING, VALIDATION = 0, 1  # kinds of rows: each has masks of its own
ROLES = ("cls", "sep", "mask", "pad")
TEXT_SHOWN, WORDS_SHOWN = 80, 24


class Batch(NamedTuple):
    """Ids (B, T) and targets (B, T), IGNORED where nothing is to be guessed."""

    ids: numpy.ndarray
    targets: numpy.ndarray


class MaskedModelling:
    """Windows of a dataset between [CLS] and [SEP], some of their tokens hidden.

    Which ones is drawn anew each time a window is seen, and stays the same in validation. Measured
    in nats a hidden token, and in how many of them are guessed.
    """

    unit = "tokens"
    best = BY_LOSS

    def __init__(
        self,
        tokenizer: Tokenizer,
        dataset: Dataset,
        context: int,
        *,
        batch: int,
        seed: int,
        prompt: str | None = None,
        whole_word: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        self.tokenizer, self.dataset, self.context = tokenizer, dataset, context
        self.rows, self.prompt, self.fingerprint = batch, prompt, dataset.fingerprint
        self.windows = Windows(dataset.train, context - len(tokenizer.around([])), seed)
        self.label_smoothing = label_smoothing
        self.masking = Masking(tokenizer, seed, whole_word)

    @classmethod
    def of(cls, settings: Settings, tokenizer: Tokenizer, dataset: Dataset) -> MaskedModelling:
        s: Any = settings
        return cls(
            tokenizer,
            dataset,
            s.context,
            batch=s.batch,
            seed=s.seed,
            prompt=s.prompt,
            whole_word=s.whole_word,
            label_smoothing=s.label_smoothing,
        )

    @property
    def sample_tokens(self) -> float:
        return self.context

    @property
    def validation_size(self) -> int:
        return len(self.dataset.val or ())

    def batch(self, first_sample: int, size: int) -> Batch:
        windows, _ = self.windows.batch(first_sample, size)
        return self.hidden(windows, TRAINING, range(first_sample, first_sample + size))

    def hidden(self, windows: numpy.ndarray, kind: int, numbers: Any) -> Batch:
        """Rows of windows (B, T) that have these numbers."""
        ids = numpy.array([self.tokenizer.around(row) for row in windows.tolist()])
        targets = numpy.full_like(ids, IGNORED)
        for place, number in enumerate(numbers):
            row = self.masking(ids[place], kind, int(number))
            ids[place] = row.ids
            targets[place, row.places] = row.targets
        return Batch(ids, targets)

    def tokens(self, batch: Batch) -> int:
        return int(batch.ids.size)

    def targets(self, batch: Batch) -> int:
        return int((batch.targets != IGNORED).sum())

    def loss(self, model: Any, batch: Batch) -> Tensor:
        how = {"reduction": "sum", "label_smoothing": smoothing(model, self.label_smoothing)}
        loss: Tensor = model.loss(batch.ids, batch.targets, **how)
        return loss

    def excerpt(self, batch: Batch) -> str:
        return self.tokenizer.decode(batch.ids[0])[:TEXT_SHOWN]

    def evaluate(self, model: Any, limit: int | None) -> Mapping[str, float]:
        tokens, context = self.dataset.val, self.windows.context
        assert tokens is not None
        nats, right, count = 0.0, 0, 0
        for starts, length in validation_starts(len(tokens), context, self.rows, limit):
            batch = self.hidden(tokens.rows(starts, length), VALIDATION, starts)
            asked = batch.targets != IGNORED
            if not asked.any():
                continue
            logits, targets = model.logits_at(batch.ids, asked), batch.targets[asked]
            nats += ops.cross_entropy(logits, targets, reduction="sum").item()
            right += int((logits.numpy().argmax(axis=-1) == targets).sum())
            count += len(targets)
        if not count:
            return {"val_loss": float("nan"), "val_accuracy": 0.0}
        return {"val_loss": nats / count, "val_accuracy": right / count}

    def sample(self, model: Any, tokens: int) -> tuple[str, str] | None:
        ids = self.sample_ids()
        mask = self.tokenizer.role_ids["mask"]
        hidden = numpy.array([ids]) == mask
        shown = self.tokenizer.decode(ids[1:-1], skip_special_tokens=False)
        guessed = numpy.array([ids])
        guessed[hidden] = model.logits_at(guessed, hidden).numpy().argmax(axis=-1)
        return shown, "\n" + self.tokenizer.decode(guessed[0, 1:-1], skip_special_tokens=False)

    def sample_ids(self) -> list[int]:
        """What samples fill in: the prompt, else the beginning of the validation text."""
        if self.prompt is not None:
            return ids_of(self.tokenizer, self.prompt)
        tokens = self.dataset.val or self.dataset.train
        length = min(WORDS_SHOWN, len(tokens), self.windows.context)
        first = tokens.rows(numpy.zeros(1, int), length)
        batch = self.hidden(first, VALIDATION, [0])
        ids = batch.ids[0]
        ids[batch.targets[0] != IGNORED] = self.tokenizer.role_ids["mask"]
        shown: list[int] = ids.tolist()
        return shown


def ids_of(tokenizer: Tokenizer, prompt: str) -> list[int]:
    return tokenizer.encode(prompt, add_special_tokens=True, split_special_tokens=False)


def choose_tokenizer(settings: Settings, facts: Facts) -> str:
    return "wordpiece"


def specials(kind: str, facts: Facts) -> tuple[str, ...]:
    """None beside those that WordPiece always has."""
    return ()


def check(settings: Settings, tokenizer: Tokenizer) -> None:
    missing = [role for role in ROLES if role not in tokenizer.role_ids]
    if missing:
        raise ValueError(
            f"train: the {tokenizer.kind} tokenizer has no {missing[0]} token, one like BERT's is "
            "needed for --objective mlm; prepare the data with: minillm tokenizer train --kind "
            "wordpiece"
        )
    context, around = settings.context or 0, len(tokenizer.around([]))
    if context <= around:
        raise ValueError(
            f"context: {context}, {around + 1} or more is needed: {around} of it are control tokens"
        )
    if settings.prompt is None:
        return
    ids = ids_of(tokenizer, settings.prompt)
    if tokenizer.role_ids["mask"] not in ids:
        raise ValueError(
            f"prompt: {settings.prompt!r} has no [MASK], one is needed for what is to be guessed"
        )
    if len(ids) > context:
        raise ValueError(f"prompt: {len(ids)} tokens, {context} (the context) or less are needed")


def config_of(settings: Settings, tokenizer: Tokenizer) -> BertConfig:
    """No dropout on attention weights, which would take attention step by step."""
    s: Any = settings
    return BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=s.width,
        num_hidden_layers=s.layers,
        num_attention_heads=s.heads,
        intermediate_size=4 * s.width,
        hidden_dropout_prob=s.dropout or 0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=s.context,
        pad_token_id=tokenizer.role_ids["pad"],
        architecture="BertForMaskedLM",
    )


PRETRAINING = Pretraining(
    family="BERT",
    tokenizers=("wordpiece",),
    choose_tokenizer=choose_tokenizer,
    specials=specials,
    check=check,
    config=config_of,
    model=Bert,
    objective=MaskedModelling.of,
    next_command='predict {run} "... [MASK] ..."',
    rate=0.25,  # norms behind the sums: at more it stays with the frequencies of words
    depth=1.6,
)

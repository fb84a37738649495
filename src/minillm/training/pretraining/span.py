"""Spans taken out of a text, written from what is left (Raffel et al. 2020): a T5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy

from minillm.arrays import numbers
from minillm.data import Dataset, Facts, Windows, spans
from minillm.data.windows import validation_starts
from minillm.generation import generate
from minillm.models import T5, T5Config
from minillm.tensor import Tensor
from minillm.tokenizers import Tokenizer, from_document
from minillm.tokenizers.description import Description
from minillm.training.objective import BY_LOSS, smoothing
from minillm.training.pretraining import Pretraining
from minillm.training.settings import Settings

TRAINING, VALIDATION = 2, 3  # kinds of rows: each has spans of its own
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SENTINELS = 100
LEAST_CONTEXT = 4  # a token before and behind the sentinel, and the end token
TEXT_SHOWN = 80


def sentinel(place: int) -> str:
    return f"<extra_id_{place}>"


class Batch(NamedTuple):
    """What the encoder reads (B, S) and the decoder is to write (B, T)."""

    ids: numpy.ndarray
    targets: numpy.ndarray


class SpanCorruption:
    """Windows of a dataset that fill the context when 15 % of their tokens are taken out.

    Spans of 3 tokens on average give way to sentinels; drawn anew each time a window is seen, the
    same in validation. Measured in nats a target: sentinels, spans and the end token.
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
        label_smoothing: float = 0.0,
    ) -> None:
        self.tokenizer, self.dataset, self.seed, self.rows = tokenizer, dataset, seed, batch
        self.fingerprint, self.label_smoothing = dataset.fingerprint, label_smoothing
        shortest = min(len(part) for part in (dataset.train, dataset.val) if part is not None)
        self.windows = self.windows_of(dataset.train, context, shortest, seed)

    def windows_of(self, tokens: Any, context: int, shortest: int, seed: int) -> Windows:
        """Windows that fill the context, or what a `shortest` part of the data can fill."""
        return Windows(tokens, min(spans.raw_length(context), shortest - 1), seed)

    @cached_property
    def sentinels(self) -> numpy.ndarray:
        names = (sentinel(place) for place in range(SENTINELS))
        return numpy.array([self.tokenizer.special_tokens[name] for name in names])

    @classmethod
    def of(cls, settings: Settings, tokenizer: Tokenizer, dataset: Dataset) -> SpanCorruption:
        s: Any = settings
        return cls(
            tokenizer,
            dataset,
            s.context,
            batch=s.batch,
            seed=s.seed,
            label_smoothing=s.label_smoothing,
        )

    @property
    def sample_tokens(self) -> float:
        """Of both sides."""
        return sum(spans.lengths(self.windows.context))

    @property
    def validation_size(self) -> int:
        return len(self.dataset.val or ())

    def batch(self, first_sample: int, size: int) -> Batch:
        windows, _ = self.windows.batch(first_sample, size)
        return self.corrupted(windows, TRAINING, range(first_sample, first_sample + size))

    def corrupted(self, windows: numpy.ndarray, kind: int, numbers: Any) -> Batch:
        """Rows of windows (B, L) that have these numbers; all of one length."""
        end = numpy.array([self.tokenizer.eos_id])
        rows = []
        for ids, number in zip(windows, numbers, strict=True):
            sequence = numpy.random.SeedSequence((self.seed, int(number)), spawn_key=(kind,))
            rows.append(spans.corrupt(ids, self.sentinels, numpy.random.Philox(sequence)))
        return Batch(
            numpy.stack([numpy.concatenate((row.inputs, end)) for row in rows]),
            numpy.stack([numpy.concatenate((row.targets, end)) for row in rows]),
        )

    def tokens(self, batch: Batch) -> int:
        return int(batch.ids.size + batch.targets.size)

    def targets(self, batch: Batch) -> int:
        return int(batch.targets.size)

    def loss(self, model: Any, batch: Batch) -> Tensor:
        how = {"reduction": "sum", "label_smoothing": smoothing(model, self.label_smoothing)}
        loss: Tensor = model.loss(batch.ids, batch.targets, **how)
        return loss

    def excerpt(self, batch: Batch) -> str:
        return self.tokenizer.decode(batch.ids[0], skip_special_tokens=False)[:TEXT_SHOWN]

    def evaluate(self, model: Any, limit: int | None) -> Mapping[str, float]:
        tokens, losses, count = self.dataset.val, [], 0
        assert tokens is not None
        context = self.windows.context
        for starts, length in validation_starts(len(tokens), context, self.rows, limit):
            if length < 2:  # nothing would be left of one token
                continue
            batch = self.corrupted(tokens.rows(starts, length), VALIDATION, starts)
            losses.append(self.loss(model, batch).data)
            count += self.targets(batch)
        return {"val_loss": sum(numbers(losses)) / count}

    def sample(self, model: Any, tokens: int) -> tuple[str, str] | None:
        part = self.dataset.val or self.dataset.train
        first = part.rows(numpy.zeros(1, int), min(self.windows.context, 2 * TEXT_SHOWN // 3))
        ids = self.corrupted(first, VALIDATION, [0]).ids[0]
        written = generate(model, self.tokenizer, ids.tolist(), max_tokens=tokens, temperature=0)
        return self.tokenizer.decode(ids, skip_special_tokens=False), f"\n{written}"


def choose_tokenizer(settings: Settings, facts: Facts) -> str:
    return "unigram"


def specials(kind: str, facts: Facts) -> tuple[str, ...]:
    """As in T5 the first sentinel has the last id."""
    return (PAD, END, *(sentinel(place) for place in reversed(range(SENTINELS))))


def finish(tokenizer: Tokenizer) -> Tokenizer:
    """The same with T5's roles, and the end token behind a source."""
    end = tokenizer.special_tokens[END]
    one = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}]
    processor = {
        "type": "TemplateProcessing",
        "single": one,
        "pair": [
            *one,
            {"Sequence": {"id": "B", "type_id": 0}},
            {"SpecialToken": {"id": END, "type_id": 0}},
        ],
        "special_tokens": {END: {"id": END, "ids": [end], "tokens": [END]}},
    }
    roles = {"pad": PAD, "eos": END, "unk": UNKNOWN}
    document = tokenizer.to_dict() | {"post_processor": processor}
    return from_document(document, Description({}, roles, [], None))


def check_tokens(settings: Settings, tokenizer: Tokenizer, marks: Iterable[str]) -> None:
    """ValueError for a tokenizer without T5's roles and `marks`, and for a prompt."""
    missing = [name for name in marks if name not in tokenizer.special_tokens]
    missing += [f"{role} token" for role in ("pad", "eos") if role not in tokenizer.role_ids]
    if missing:
        raise ValueError(
            f"train: the {tokenizer.kind} tokenizer has no {missing[0]}, one like T5's is needed "
            f"for --objective {settings.objective}; train on texts, and one is learnt"
        )
    if settings.prompt is not None:
        raise ValueError(
            f"prompt: samples of --objective {settings.objective} begin with what is left of the "
            "validation text; leave it out"
        )


def check(settings: Settings, tokenizer: Tokenizer) -> None:
    check_tokens(settings, tokenizer, map(sentinel, range(SENTINELS)))
    context = settings.context or 0
    if context < LEAST_CONTEXT:
        raise ValueError(f"context: {context}, {LEAST_CONTEXT} or more is needed for a span")
    found = spans.counts(spans.raw_length(context))[1]
    if found > SENTINELS:
        raise ValueError(
            f"context: {context} makes {found} spans, {SENTINELS} (as many as T5 has sentinels) or "
            "less are needed; choose a smaller one"
        )


def config_of(settings: Settings, tokenizer: Tokenizer) -> T5Config:
    s: Any = settings
    roles = tokenizer.role_ids
    return T5Config(
        vocab_size=tokenizer.vocab_size,
        d_model=s.width,
        d_kv=s.width // s.heads,
        d_ff=4 * s.width,
        num_layers=s.layers,
        num_heads=s.heads,
        dropout_rate=s.dropout or 0.0,
        pad_token_id=roles["pad"],
        eos_token_id=roles["eos"],
        decoder_start_token_id=roles["pad"],
    )


PRETRAINING = Pretraining(
    family="T5",
    tokenizers=("unigram",),
    choose_tokenizer=choose_tokenizer,
    specials=specials,
    finish=finish,
    check=check,
    config=config_of,
    model=T5,
    objective=SpanCorruption.of,
    next_command='generate {run} --control-tokens --prompt "... <extra_id_0> ..."',
    rate=4.0,  # its embeddings begin at a width of 1, fifty times that of a GPT-2
    depth=2.5,
    scores=4,
)

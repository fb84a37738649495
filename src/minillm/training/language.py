"""Language modelling as an objective: windows of a text, each token from those before it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy

from minillm.arrays import numbers
from minillm.data import Dataset, Windows, validation
from minillm.generation import generate
from minillm.tensor import Tensor
from minillm.tokenizers import Tokenizer
from minillm.training.objective import BY_LOSS, IGNORED, smoothing
from minillm.training.settings import Settings

LN2 = math.log(2)
TEXT_SHOWN = 80
PROMPT_SEARCHED, PROMPT_LENGTH = 512, 24  # tokens, characters


class LanguageModelling:
    """Windows of `context` tokens of a dataset; measured in nats a token and bits a byte.

    With `document_mask` each document is read as if it stood alone: an end token begins the next
    one, so that its first token is learnt from that alone. Samples continue `prompt`, else the
    first words of a line of the validation text.
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
        document_mask: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        if document_mask and tokenizer.eos_id is None:
            raise ValueError(
                f"document-mask: the {tokenizer.kind} tokenizer has no end token, one between "
                "documents is needed; leave it out, or use another tokenizer"
            )
        self.tokenizer, self.dataset = tokenizer, dataset
        self.context, self.rows, self.seed, self.prompt = context, batch, seed, prompt
        self.fingerprint, self.label_smoothing = dataset.fingerprint, label_smoothing
        self.windows = Windows(dataset.train, context, seed)
        self.byte_lengths = tokenizer.byte_lengths()
        self.border = tokenizer.eos_id if document_mask else None

    @classmethod
    def of(cls, settings: Settings, tokenizer: Tokenizer, dataset: Dataset) -> Self:
        """As the settings of a run have it, which leave nothing open."""
        s: Any = settings
        return cls(
            tokenizer,
            dataset,
            s.context,
            batch=s.batch,
            seed=s.seed,
            prompt=s.prompt,
            document_mask=s.document_mask,
            label_smoothing=s.label_smoothing,
        )

    @property
    def sample_tokens(self) -> float:
        return self.context

    @property
    def validation_size(self) -> int:
        return len(self.dataset.val or ())

    def batch(self, first_sample: int, size: int) -> Any:
        return self.windows.batch(first_sample, size)

    def tokens(self, batch: Any) -> int:
        return int(batch[0].size)

    def targets(self, batch: Any) -> int:
        return int((batch[1] != IGNORED).sum())

    def loss(self, model: Any, batch: Any) -> Tensor:
        inputs, targets = batch
        how = {"reduction": "sum", "label_smoothing": smoothing(model, self.label_smoothing)}
        if self.border is None:
            return model.loss(inputs, targets, **how)
        ends = inputs == self.border  # each begins the next document
        documents = ends.cumsum(axis=1, dtype=numpy.int64)
        return model.loss(inputs, targets, documents=documents, **how)

    def excerpt(self, batch: Any) -> str:
        return self.tokenizer.decode(batch[0][0][:TEXT_SHOWN])[:TEXT_SHOWN]

    def evaluate(self, model: Any, limit: int | None) -> Mapping[str, float]:
        assert self.dataset.val is not None
        losses, tokens, size = [], 0, 0
        for inputs, targets in validation(self.dataset.val, self.context, self.rows, limit):
            losses.append(self.loss(model, (inputs, targets)).data)
            tokens += targets.size
            size += int(self.byte_lengths[targets].sum())
        nats = sum(numbers(losses))
        return {"val_loss": nats / tokens, "val_bpb": nats / LN2 / max(1, size)}

    def sample(self, model: Any, tokens: int) -> tuple[str, str] | None:
        prompt = self.sample_prompt()
        text = generate(
            model,
            self.tokenizer,
            prompt,
            max_tokens=tokens,
            temperature=0.8,
            top_k=50,
            seed=self.seed,
            overflow="slide",
        )
        return prompt, text

    def sample_prompt(self) -> str:
        """What samples begin with."""
        if self.prompt is not None:
            return self.prompt
        tokens, tokenizer = self.dataset.val or self.dataset.train, self.tokenizer
        searched = min(PROMPT_SEARCHED, len(tokens))
        text = tokenizer.decode(tokens.rows(numpy.zeros(1, int), searched)[0])
        line = next((line for line in text.split("\n")[1:] if line.strip()), text)
        start = line[:PROMPT_LENGTH]
        text = start.rpartition(" ")[0] or start
        while len(tokenizer.encode(text)) > self.context:
            text = text[:-1]
        return text

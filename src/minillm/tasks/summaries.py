"""Summaries that a decoder writes, beside the first sentence of the text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from minillm.data.tables import Faults, read_rows
from minillm.quantities import counted
from minillm.tasks.asking import Asker
from minillm.tasks.evaluation import Evaluated, Measure, Meter, unseen
from minillm.tasks.examples import Read
from minillm.tasks.metrics import Metric
from minillm.tasks.rouge import rouge

INSTRUCTION = "Summarize this text in one sentence."
MAX_TOKENS = 64
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


class Summarised(NamedTuple):
    """A text and what people wrote of it, one summary or several."""

    line: int
    source: str
    targets: tuple[str, ...]


class Summaries(Measure):
    """Of a decoder, by ROUGE against the summaries of people, the best of several counting."""

    name = "summarize"
    without = "the first sentence (lead-1)"

    def __init__(self, instruction: str | None = None, max_tokens: int | None = None) -> None:
        self.instruction = INSTRUCTION if instruction is None else instruction
        self.max_tokens = MAX_TOKENS if max_tokens is None else max_tokens

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        return read_summaries(path, columns, on_bad)

    def asker(self, model: Any, tokenizer: Any) -> Asker:
        return Asker(self.name, model, tokenizer, self.instruction, self.max_tokens)

    def require(self, model: Any) -> None:
        self.asker(*model)

    def evaluate(self, model: Any, examples: Sequence[Any], meter: Meter = unseen) -> Evaluated:
        asker = self.asker(*model)
        with meter("summaries", len(examples)) as told:
            given = asker.answers([one.source for one in examples], told)
        notices = [f"summarize: {counted(asker.cut, 'text')} cut to the context"] * (asker.cut > 0)
        return Evaluated(rouge([one.targets for one in examples], given), notices)

    def baseline(self, learnt: Sequence[Any], examples: Sequence[Any]) -> dict[str, Metric]:
        given = [SENTENCE_END.split(one.source.strip(), 1)[0] for one in examples]
        return rouge([one.targets for one in examples], given)


def read_summaries(path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
    """Rows with the columns source and targets, which is a text or a list of texts."""
    faults = Faults(path, on_bad)
    rows, told = read_rows(path, ("source", "targets"), columns, faults)
    found = []
    for line, fields in rows:
        source, targets = fields["source"], fields["targets"]
        texts = [targets] if isinstance(targets, str) else targets
        if not _is_text(source) or not isinstance(texts, list) or not all(map(_is_text, texts)):
            faults.found(line, "an empty text", "no text in source or targets", "some in both")
        elif not texts:
            faults.found(line, "no summary", "an empty list of targets", "at least 1")
        else:
            found.append(Summarised(line, source, tuple(texts)))
    if len(faults):
        told = [*told, str(faults)]
    if not found:
        raise ValueError(f"read: {path} has no example, at least 1 is needed")
    return Read(found, told)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())

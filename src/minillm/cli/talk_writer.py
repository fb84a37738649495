"""Answers of a talk, token by token; what was read of a conversation is not read again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from minillm.arrays import new_generator
from minillm.generation.options import Options
from minillm.generation.reading import Reader
from minillm.generation.sampling import Seen
from minillm.generation.writing import Row, Scribe, end_ids
from minillm.tokenizers import Tokenizer


@dataclass
class Answer:
    """Figures of one answer: tokens of the prompt, those of them read before, tokens, seconds."""

    prompt: int
    known: int
    seed: int
    tokens: int = 0
    first: float = 0.0
    seconds: float = 0.0
    finish_reason: str | None = None  # None: it was stopped

    @property
    def speed(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / max(self.seconds - self.first, 1e-9) if self.tokens > 1 else 0.0


class Writer:
    """Continues ids. Of the text before, what both begin with is kept."""

    def __init__(self, model: Any, tokenizer: Tokenizer, ends: Iterable[int]) -> None:
        self._tokenizer, self._reader = tokenizer, Reader(model)
        self._whole = getattr(model, "reads_whole", False)
        self._ends = frozenset(ends).union(end_ids(model.config))
        self._reading = self._reader.begin()
        self._scribe: Scribe | None = None

    def known(self, ids: list[int]) -> int:
        """How many of the ids need not be read. The last one has to be: it tells the next."""
        if self._whole:
            return 0
        most = min(self._reading.length, len(ids) - 1)
        pairs = enumerate(zip(self._reading.ids, ids[:most]))
        return next((place for place, (old, new) in pairs if old != new), most)

    def write(self, ids: list[int], options: Options, answer: Answer) -> Iterator[str]:
        """What each step adds to the answer, "" while the prompt is read; fills in its figures."""
        begin, limit = time.perf_counter(), options.max_tokens or 1
        reading, known = self._reading, self.known(ids)
        reading.rewind(known)
        row = Row(
            reading,
            ids[known:],
            options.sampler,
            new_generator(options.seed),
            context=self._reader.context,
            whole=self._whole,
            limit=limit,
            vocab_size=self._tokenizer.vocab_size,
            ends=self._ends,
            seen=Seen(ids) if options.sampler.needs_seen else None,
        )
        self._scribe = scribe = Scribe(self._tokenizer, options.stop, self._ends, limit)
        while answer.finish_reason is None:
            (logits,) = self._reader.read([(reading, row.due())])
            text = ""
            if not row.unread:
                text, answer.finish_reason = scribe.write(row.draw(logits))
                answer.tokens += 1
            answer.seconds = time.perf_counter() - begin
            answer.first = answer.first or (answer.seconds if answer.tokens else 0.0)
            yield text

    def flush(self) -> str:
        """What was held back of an answer that was stopped."""
        return "" if self._scribe is None else self._scribe.flush()

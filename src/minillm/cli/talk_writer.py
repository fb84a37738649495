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
    seed: int
    known: int = 0
    tokens: int = 0
    first: float = 0.0
    seconds: float = 0.0
    finish_reason: str | None = None  # None: it was stopped

    @property
    def speed(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / max(self.seconds - self.first, 1e-9) if self.tokens > 1 else 0.0


class Writer:
    """Continues ids. Of the text before, what both begin with is kept, to the last token of it.

    (The engine keeps whole chunks only, so that bits are the same with and without what was read
    before; here a talk is the same whenever all of it is said again.)
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, ends: Iterable[int], cache_dtype: str = "float32"
    ) -> None:
        self._tokenizer, self._reader = tokenizer, Reader(model, cache_dtype=cache_dtype)
        self._whole = getattr(model, "reads_whole", False)
        self._ends = frozenset(ends).union(end_ids(model.config))
        self._reading = self._reader.begin()

    def write(self, ids: list[int], options: Options, answer: Answer) -> Iterator[str]:
        """What each step adds to the answer, "" while the prompt is read; fills in its figures."""
        begin, limit = time.perf_counter(), options.max_tokens or 1
        answer.known = self._rewind(ids)
        row = Row(
            self._reading,
            ids[answer.known :],
            options.sampler,
            new_generator(options.seed),
            context=self._reader.context,
            whole=self._whole,
            limit=limit,
            vocab_size=self._tokenizer.vocab_size,
            ends=self._ends,
            seen=Seen(ids) if options.sampler.needs_seen else None,
        )
        scribe = Scribe(self._tokenizer, options.stop, self._ends, limit)
        while answer.finish_reason is None:
            (logits,) = self._reader.read([(self._reading, row.due())])
            text = ""
            if not row.unread:
                text, answer.finish_reason = scribe.write(row.draw(logits))
                answer.tokens += 1
            answer.seconds = time.perf_counter() - begin
            answer.first = answer.first or (answer.seconds if answer.tokens else 0.0)
            yield text

    def _rewind(self, ids: list[int]) -> int:
        """Forget what is not in `ids`; how many of them need not be read. The last has to be: it
        tells the next."""
        most = 0 if self._whole else min(self._reading.length, len(ids) - 1)
        pairs = enumerate(zip(self._reading.ids, ids[:most]))
        known = next((place for place, (old, new) in pairs if old != new), most)
        try:
            self._reading.rewind(known)
        except RuntimeError:  # layers with a window have forgotten what is needed
            self._reading = self._reader.begin()
        return self._reading.length

"""One text being written: which ids are read next, which one is drawn, and what it adds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy

from minillm.generation.reading import CHUNK, Reading
from minillm.generation.sampling import Sampler
from minillm.generation.stopping import StopText
from minillm.quantities import counted
from minillm.tokenizers import Tokenizer


def end_ids(config: Any) -> list[int]:
    """The ids that end a text to this model: none, one or several."""
    ends = config.eos_token_id
    return list(ends) if isinstance(ends, tuple) else [] if ends is None else [ends]


class Row:
    """Ids of one text: those read, those still to be read, and how the next one is drawn.

    `limit` is how many may be drawn, None for no end; `seen` counts tokens for the penalties;
    `state` is that of a constraint. With `slides`, the last half of the context is read again as
    the new beginning when it is full, behind the first `kept` ids, and `slid` says how many
    positions that half has.
    """

    def __init__(
        self,
        reading: Reading,
        unread: Sequence[int],
        sampler: Sampler,
        generator: numpy.random.Generator,
        *,
        context: int | None = None,
        whole: bool = False,
        slides: bool = False,
        kept: int = 0,
        limit: int | None = None,
        vocab_size: int | None = None,
        ends: Collection[int] = (),
        seen: Any = None,
        state: Any = None,
    ) -> None:
        self.reading, self.unread = reading, list(unread)
        self.sampler, self.generator = sampler, generator
        self.context, self.whole, self.slides, self.kept = context, whole, slides, kept
        self.limit, self.vocab_size, self.ends = limit, vocab_size, ends
        self.seen, self.state = seen, state
        self.count = 0
        self.slid: int | None = None

    def due(self, chunk: int = CHUNK) -> list[int]:
        """Take the ids to be read now: a chunk, cut at its multiples so that all texts have the
        same bits; all of them where the model reads texts as a whole."""
        length = self.reading.length
        if self.context is not None and length + len(self.unread) > self.context:
            self._slide()
            length = 0
        size = len(self.unread) if self.whole else chunk - length % chunk
        ids, self.unread = self.unread[:size], self.unread[size:]
        return ids

    def _slide(self) -> None:
        assert self.context is not None
        if not self.slides:
            raise ValueError(
                f"generate: the model's context of {counted(self.context, 'token')} is full; "
                "overflow slide goes on from its last half"
            )
        text = self.reading.ids + self.unread
        before = text[: min(self.kept, self.context - 1)]
        self.slid = max(1, self.context // 2 - len(before))
        self.unread = before + text[-self.slid :]
        self.reading.rewind(0)

    def draw(self, logits: numpy.ndarray) -> int:
        """The next id, drawn from logits (V,); it is read next. ValueError for logits that are no
        distribution, or a constraint that cannot be met."""
        allowed = None if self.state is None else self.state.allowed(self.left)
        id = self.sampler.pick(logits[: self.vocab_size], self.generator, self.seen, allowed)
        self.count += 1
        self.unread = [id]
        if id not in self.ends:
            if self.seen is not None:
                self.seen.push(id)
            if self.state is not None:
                self.state.advance(id)
        return id

    @property
    def left(self) -> int:
        """Tokens that may still be drawn; many where there is no limit."""
        return 1 << 30 if self.limit is None else self.limit - self.count


class Drawn:
    """Ids that are read and drawn elsewhere, in the place of a Row; `state` follows them."""

    reading = None

    def __init__(self, ids: Iterator[int], ends: Collection[int], state: Any) -> None:
        self.unread: list[int] = []
        self.ends, self.state = ends, state
        self._ids = ids

    def draw(self, logits: None = None) -> int:
        """The next id."""
        id = next(self._ids)
        if self.state is not None and id not in self.ends:
            self.state.advance(id)
        return id


class Scribe:
    """Ids to text, whole characters at a time, up to a stop string or the end.

    After a prompt the text goes on: `before`, the last id of it, is not shown.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        ends: Collection[int],
        limit: int,
        before: int | None = None,
    ) -> None:
        self._decoder, self._stop = tokenizer.stream(), StopText(stops)
        self._ends, self._limit, self._count = ends, limit, 0
        if before is not None:
            self._decoder.push(before)

    def write(self, id: int, state: Any = None) -> tuple[str, str | None]:
        """What `id` adds, and why the text ends with it: "stop", "length" or None.

        `state` is that of a constraint, which has seen the id.
        """
        self._count += 1
        if id in self._ends:
            return self.flush(), "stop"
        text, reason = self._stop.push(self._decoder.push(id)), None
        if self._stop.stopped or (state is not None and state.finished):
            reason = "stop"
        elif self._count >= self._limit:
            reason = "stop" if state is not None and state.complete else "length"
        elif state is not None and not self._ends and not self._may_go_on(state):
            reason = "stop"
        return (text if reason is None else text + self.flush()), reason

    def _may_go_on(self, state: Any) -> bool:
        """Whether what remains suffices to extend a text that is complete."""
        return bool(state.allowed(self._limit - self._count).any())

    def flush(self) -> str:
        """What was held back; "" after a stop string."""
        return self._stop.push(self._decoder.flush()) + self._stop.flush()

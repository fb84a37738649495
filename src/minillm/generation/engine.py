"""Many texts at once: requests join and leave between steps, each as if it were alone."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from minillm.generation.budget import Budget
from minillm.generation.completions import Collector, Completion, Piece
from minillm.generation.memory import require_list
from minillm.generation.options import Options
from minillm.generation.prefixes import Prefixes, load_reading, save_reading
from minillm.generation.prompts import first_ids
from minillm.generation.reading import CHUNK
from minillm.generation.schedule import Schedule
from minillm.generation.tickets import Ticket
from minillm.generation.writer import Writer
from minillm.quantities import counted
from minillm.tokenizers import Tokenizer


class Engine:
    """Writes up to `max_batch` texts at a time; others wait for their turn.

        engine = Engine(model, tokenizer)
        ticket = engine.submit("Once upon a time", Options(temperature=0.8, seed=7))
        while not ticket.done:
            for piece in engine.step():
                print(piece.text, end="")

    A step reads one token of every running text, and one chunk of one waiting prompt, so that a
    long prompt holds nobody up. What a text becomes depends on its prompt, its options and the
    model, bit for bit, never on what is written beside it. `submit` and `cancel` may be called from
    other threads than `step`; the model's weights must not change meanwhile.

    With `prefix_bytes`, up to that many bytes of keys and values of prompts are kept, and a prompt
    that begins like one of them is read from there on, by whole chunks of `chunk` tokens. Results
    stay the same, bit for bit; `ticket.reused` says how many tokens it was. A `context` is used in
    place of the model's, which may be larger. A `budget`, which other engines may share, bounds the
    keys and values that are held at once: requests wait until theirs fit.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        max_batch: int = 8,
        chunk: int = CHUNK,
        prefix_bytes: int = 0,
        context: int | None = None,
        budget: Budget | None = None,
    ) -> None:
        sizes = (
            ("max_batch", max_batch, 1),
            ("chunk", chunk, 1),
            ("prefix_bytes", prefix_bytes, 0),
        )
        for name, size, least in sizes:
            if size < least:
                raise ValueError(f"engine: {name} {size}, {least} or more is needed")
        self.model, self.tokenizer = model, tokenizer
        self.chunk = chunk
        self.prefixes = Prefixes(prefix_bytes, chunk)
        self._writer = Writer(model, tokenizer, self.prefixes, context, budget)
        self._schedule = Schedule(self._writer, max_batch, chunk, budget)
        self._boxes: dict[Ticket, deque[Piece]] = {}  # of tickets that somebody follows

    @property
    def waiting(self) -> int:
        """How many requests were not begun."""
        return len(self._schedule.waiting)

    @property
    def running(self) -> int:
        """How many texts are written now."""
        return len(self._schedule.running)

    @property
    def held(self) -> int:
        """Bytes of keys and values that the requests which were begun may come to hold."""
        return self._schedule.held

    @property
    def max_batch(self) -> int:
        """How many texts are written at a time."""
        return self._schedule.max_batch

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return self._schedule.idle

    def submit(
        self,
        prompt: str | Sequence[int],
        options: Options | None = None,
        *,
        on_notice: Callable[[str], None] | None = None,
    ) -> Ticket:
        """Queue a request for a text or ids. Nothing is computed yet, but what can be known to be
        wrong is refused now: ValueError, TypeError or IndexError in one line."""
        ticket = self.ticket(prompt, options, on_notice=on_notice)
        self.enqueue(ticket)
        return ticket

    def ticket(
        self,
        prompt: str | Sequence[int],
        options: Options | None = None,
        *,
        on_notice: Callable[[str], None] | None = None,
        scope: Hashable = "",
    ) -> Ticket:
        """A request that is not queued yet; `enqueue` does it. Errors as in `submit`.

        What was read of prompts is shared between requests of the same `scope` only.
        """
        return self._writer.ticket(prompt, options or Options(), on_notice, scope)

    def enqueue(self, ticket: Ticket) -> None:
        """Let a request wait for its turn."""
        self._schedule.waiting.append(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up: no piece of it comes out of the step that runs now, or later."""
        ticket.cancelled = True

    def save_prefix(
        self, path: str | os.PathLike[str], prompt: str, options: Options | None = None
    ) -> int:
        """Read the whole chunks of a prompt and write them to a file; how many tokens it holds.

        ValueError for a prompt shorter than a chunk.
        """
        o = options or Options()
        reader, ids = self._writer.reader(o), first_ids(self.tokenizer, prompt)
        if len(ids) < self.chunk:
            raise ValueError(
                f"engine: a prompt of {counted(len(ids), 'token')}, {self.chunk:,} or more (a "
                "chunk) are needed to be kept"
            )
        reading = reader.begin()
        for start in range(0, len(ids) // self.chunk * self.chunk, self.chunk):
            reader.read([(reading, ids[start : start + self.chunk])])
        save_reading(path, reading, reader)
        return reading.length

    def load_prefix(self, path: str | os.PathLike[str], options: Options | None = None) -> int:
        """Keep what `save_prefix` of an engine with the same chunk wrote among the prefixes; how
        many tokens it holds. ValueError for a file of another model or chunk, or one that does not
        fit."""
        o = options or Options()
        reading = load_reading(path, self._writer.reader(o))
        if reading.length % self.chunk:
            raise ValueError(
                f"engine: {path} holds {counted(reading.length, 'token')}, whole chunks of "
                f"{self.chunk:,} are needed"
            )
        if reading.nbytes > self.prefixes.most:
            raise ValueError(
                f"engine: {path} takes {reading.nbytes:,} bytes, prefix_bytes is "
                f"{self.prefixes.most:,}; raise it"
            )
        self.prefixes.keep((o.cache_dtype, ""), reading)
        return reading.length

    def step(self) -> list[Piece]:
        """Go on by one token everywhere; [] where there is nothing to do."""
        rest: list[Piece] = []
        for piece in self._schedule.step():
            self._boxes.get(piece.ticket, rest).append(piece)
        return rest

    def pieces(self, ticket: Ticket) -> Iterator[Piece]:
        """Step until a request is done, and give its pieces; those of others who call this, or
        `complete`, are kept for them. Raises the request's error; leaving early cancels it."""
        self._boxes[ticket] = deque()
        return self._followed(ticket)

    def complete(
        self,
        prompts: Sequence[str | Sequence[int]],
        options: Options | Sequence[Options] | None = None,
    ) -> list[Completion]:
        """The texts for several prompts, n for each, those of a prompt side by side; `options` are
        those of all prompts, or of each. ValueError also for more than memory holds."""
        each = options if isinstance(options, Sequence) else [options] * len(prompts)
        tickets: list[Ticket] = []
        found: list[Completion] = []
        try:
            for prompt, one in zip(prompts, each, strict=True):
                tickets.append(self.submit(prompt, one))
            require_list(tickets)
            followed = [(Collector(ticket), self.pieces(ticket)) for ticket in tickets]
            for collector, pieces in followed:
                for piece in pieces:
                    collector.add(piece)
                found += collector.completions()
        finally:  # one that went wrong takes the others with it
            for ticket in tickets:
                self.cancel(ticket)
                self._boxes.pop(ticket, None)
        return found

    def completed(
        self, prompt: str | Sequence[int], options: Options | None = None
    ) -> Iterator[Completion]:
        """The texts for one prompt in turn, each once it and those before it are whole; what was
        given is not kept. With best_of when all are."""
        ticket = self.submit(prompt, options)
        if ticket.options.best_of is not None:
            require_list([ticket])
        return self._completed(ticket)

    def _completed(self, ticket: Ticket) -> Iterator[Completion]:
        collector = Collector(ticket)
        for piece in self.pieces(ticket):
            collector.add(piece)
            if ticket.options.best_of is None:
                yield from collector.next_ones()
        yield from collector.completions()

    def _followed(self, ticket: Ticket) -> Iterator[Piece]:
        box = self._boxes[ticket]
        try:
            while box or not ticket.done:
                while not box and not ticket.done:
                    self.step()
                if ticket.error is not None:
                    raise ticket.error
                if box:
                    yield box.popleft()
        finally:
            self.cancel(ticket)
            self._boxes.pop(ticket, None)

"""Many texts at once: requests join and leave between steps, each as if it were alone."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy

from minillm.generation.completions import Collector, Completion, Piece, likelihood
from minillm.generation.options import Options
from minillm.generation.prefixes import Prefixes, load_reading, save_reading
from minillm.generation.prompts import first_ids
from minillm.generation.reading import Reader
from minillm.generation.tickets import Line, Ticket
from minillm.generation.writer import Writer
from minillm.generation.writing import CHUNK
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
    stay the same, bit for bit; `ticket.reused` says how many tokens it was.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        max_batch: int = 8,
        chunk: int = CHUNK,
        prefix_bytes: int = 0,
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
        self.max_batch, self.chunk = max_batch, chunk
        self.prefixes = Prefixes(prefix_bytes, chunk)
        self._writer = Writer(model, tokenizer, self.prefixes)
        self._waiting: deque[Ticket] = deque()
        self._filling: Line | None = None  # its prompt is being read
        self._ready: deque[tuple[Ticket, Iterator[Line], Any]] = deque()  # texts to be begun
        self._running: list[Line] = []
        self._boxes: dict[Ticket, deque[Piece]] = {}  # of tickets that somebody follows

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._filling or self._ready or self._running)

    def submit(
        self,
        prompt: str | Sequence[int],
        options: Options | None = None,
        *,
        on_notice: Callable[[str], None] | None = None,
    ) -> Ticket:
        """Queue a request for a text or ids. Nothing is computed yet, but what can be known to be
        wrong is refused now: ValueError, TypeError or IndexError in one line."""
        ticket = self._writer.ticket(prompt, options or Options(), on_notice)
        self._waiting.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up: no piece of it comes out of the step that runs now, or later."""
        ticket.cancelled = True

    def save_prefix(
        self, path: str | os.PathLike[str], prompt: str, options: Options | None = None
    ) -> int:
        """Read the whole chunks of a prompt and write them to a file; how many tokens it holds."""
        o = options or Options()
        reader, ids = self._writer.reader(o), first_ids(self.tokenizer, prompt)
        reading = reader.begin()
        for start in range(0, len(ids) // self.chunk * self.chunk, self.chunk):
            reader.read([(reading, ids[start : start + self.chunk])])
        save_reading(path, reading, reader)
        return reading.length

    def load_prefix(self, path: str | os.PathLike[str], options: Options | None = None) -> int:
        """Keep what `save_prefix` wrote among the prefixes; how many tokens it holds. ValueError
        for a file of another model."""
        o = options or Options()
        reading = load_reading(path, self._writer.reader(o))
        self.prefixes.keep(o.cache_dtype, reading)
        return reading.length

    def step(self) -> list[Piece]:
        """Go on by one token everywhere; [] where there is nothing to do."""
        pieces: list[Piece] = []
        self._drop(lambda ticket: ticket.cancelled)
        if self._filling is None and not self._ready and len(self._running) < self.max_batch:
            self._begin_next(pieces)
        lines = self._running if self._filling is None else [*self._running, self._filling]
        for line, logits in self._read(lines):
            if line.row.unread or line.ticket.done:
                continue
            if line is self._filling:
                self._filling = None
                self._ready.append((line.ticket, self._writer.lines(line), logits))
            else:
                self._write(line, logits, pieces)
        self._running = [line for line in self._running if not line.over]
        while self._ready and len(self._running) < self.max_batch:
            self._start_next(pieces)
        self._drop(lambda ticket: ticket.done)
        self._running = [line for line in self._running if not line.over]
        return self._delivered(pieces)

    def pieces(self, ticket: Ticket) -> Iterator[Piece]:
        """Step until a request is done, and give its pieces; those of others who call this, or
        `complete`, are kept for them. Raises the request's error; leaving early cancels it."""
        self._boxes[ticket] = deque()
        return self._followed(ticket)

    def complete(
        self, prompts: Sequence[str | Sequence[int]], options: Options | None = None
    ) -> list[Completion]:
        """The texts for several prompts, n for each, those of a prompt side by side."""
        tickets = [self.submit(prompt, options) for prompt in prompts]
        followed = [(Collector(ticket), self.pieces(ticket)) for ticket in tickets]
        found: list[Completion] = []
        try:
            for collector, pieces in followed:
                for piece in pieces:
                    collector.add(piece)
                found += collector.completions()
        finally:  # one that went wrong takes the others with it
            for ticket in tickets:
                self.cancel(ticket)
                self._boxes.pop(ticket, None)
        return found

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

    def _delivered(self, pieces: list[Piece]) -> list[Piece]:
        rest: list[Piece] = []
        for piece in pieces:
            if not piece.ticket.cancelled:
                self._boxes.get(piece.ticket, rest).append(piece)
        return rest

    def _begin_next(self, pieces: list[Piece]) -> None:
        """Turn to the request that waits longest. A search with beams runs to its end at once."""
        while self._waiting:
            ticket = self._waiting.popleft()
            if ticket.cancelled:
                continue
            try:
                if ticket.options.beams > 1:
                    pieces += self._writer.searched(ticket)
                    ticket.left = 0
                elif ticket.options.searches:
                    self._ready.append((ticket, self._writer.guessed(ticket), None))
                else:
                    self._filling = self._writer.filling(ticket)
                return
            except Exception as error:
                self._fail(ticket, error, pieces)

    def _read(self, lines: Sequence[Line]) -> list[tuple[Line, numpy.ndarray | None]]:
        """Let every line read what is due; None for those that read by themselves."""
        groups: dict[Reader, list[tuple[Line, list[int]]]] = {}
        found: list[tuple[Line, numpy.ndarray | None]] = []
        for line in lines:
            if line.row.reading is None:
                found.append((line, None))
                continue
            reader, ids = self._writer.reader(line.ticket.options), line.row.due(self.chunk)
            groups.setdefault(reader, []).append((line, ids))
            if line.row.slid is not None:
                line.ticket.tell(
                    f"the context is full, going on from the last {line.row.slid} tokens"
                )
            if line is self._filling and line.ticket.echo is not None:
                line.ticket.echo.read(reader, ids, self._writer.size)
        for reader, group in groups.items():
            logits = reader.read([(line.row.reading, ids) for line, ids in group])
            found += [(line, row) for (line, _), row in zip(group, logits)]
        if self._filling is not None:
            self._writer.remember(self._filling)
        return found

    def _start_next(self, pieces: list[Piece]) -> None:
        ticket, lines, logits = self._ready[0]
        try:
            line = next(lines, None)
        except ValueError as error:
            line = None
            self._fail(ticket, error, pieces)
        if line is None:
            self._ready.popleft()
        else:
            self._start(line, logits, pieces)

    def _start(self, line: Line, logits: numpy.ndarray | None, pieces: list[Piece]) -> None:
        """The first token of a text, and its prompt before it where that is wanted."""
        ticket, state = line.ticket, line.row.state
        if ticket.options.echo:
            pieces += ticket.echoed(line.index, self.tokenizer)
        if state is not None and state.finished:
            self._finish(line, Piece(ticket, line.index, "", finish_reason="stop"), pieces)
        elif not ticket.prompt.limit:
            self._finish(line, Piece(ticket, line.index, "", finish_reason="length"), pieces)
        else:
            self._running.append(line)
            self._write(line, logits, pieces)

    def _write(self, line: Line, logits: numpy.ndarray | None, pieces: list[Piece]) -> None:
        """Draw the next token of a text."""
        ticket = line.ticket
        try:
            id = line.row.draw(logits)
            logprob = top = None
            if ticket.logprobs is not None and logits is not None:
                _, logprob, top = likelihood(logits, id, ticket.logprobs, self._writer.size)
            text, reason = line.scribe.write(id, line.row.state)
        except Exception as error:
            self._fail(ticket, error, pieces)
            return
        shown = None if id in line.row.ends else id
        self._finish(line, Piece(ticket, line.index, text, shown, logprob, top, reason), pieces)

    def _finish(self, line: Line, piece: Piece, pieces: list[Piece]) -> None:
        pieces.append(piece)
        if piece.finish_reason is not None:
            line.over = True
            line.ticket.left -= 1

    def _fail(self, ticket: Ticket, error: Exception, pieces: list[Piece]) -> None:
        """End a request whose own data are wrong; the others go on."""
        if ticket.error is None:
            ticket.error, ticket.left = error, 0
            pieces.append(Piece(ticket, 0, "", finish_reason="error"))

    def _drop(self, gone: Callable[[Ticket], bool]) -> None:
        """Forget the texts of requests that are `gone`, and their memory."""
        if self._filling is not None and gone(self._filling.ticket):
            self._filling = None
        self._ready = deque(entry for entry in self._ready if not gone(entry[0]))
        self._running = [line for line in self._running if not gone(line.ticket)]

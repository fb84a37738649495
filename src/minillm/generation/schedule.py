"""Who is read and who writes in each step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy

from minillm.generation.budget import Budget
from minillm.generation.completions import Piece, likelihood
from minillm.generation.reading import Reader
from minillm.generation.tickets import Line, Ticket
from minillm.generation.writer import Writer
from minillm.quantities import counted


class Schedule:
    """Tickets wait, are filled (their prompt is read), and their texts run until they end."""

    def __init__(
        self, writer: Writer, max_batch: int, chunk: int, budget: Budget | None = None
    ) -> None:
        self.max_batch, self.chunk, self._budget = max_batch, chunk, budget
        if budget is not None:
            budget.join(self)
        self.waiting: deque[Ticket] = deque()
        self.running: list[Line] = []
        self._writer = writer
        self._filling: Line | None = None  # its prompt is being read
        self._ready: deque[tuple[Ticket, Iterator[Line], Any]] = deque()  # texts to be begun

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.waiting or self._filling or self._ready or self.running)

    @property
    def held(self) -> int:
        """Bytes that the requests which were begun may come to hold."""
        filling = self._filling  # lists are taken at once: others ask while a step runs
        begun = {entry[0] for entry in list(self._ready)}
        begun |= {line.ticket for line in list(self.running)}
        if filling is not None:
            begun.add(filling.ticket)
        return sum(self._needed(ticket) for ticket in begun)

    def _needed(self, ticket: Ticket) -> int:
        """Of its texts side by side, and of its prompt for those that are still to come."""
        beside = min(self.max_batch, ticket.side_by_side, ticket.options.rows)
        return ticket.room * min(ticket.options.rows, beside + 1)

    def step(self) -> list[Piece]:
        """Go on by one token everywhere; [] where there is nothing to do."""
        pieces: list[Piece] = []
        self._drop(lambda ticket: ticket.cancelled)
        if self._may_begin:
            self._begin_next(pieces)
        lines = self.running if self._filling is None else [*self.running, self._filling]
        for line, logits in self._read(lines, pieces):
            if line.row.unread or line.ticket.done:
                continue
            if line is self._filling:
                self._filling = None
                self._ready.append((line.ticket, self._writer.lines(line), logits))
            else:
                self._write(line, logits, pieces)
        self.running = [line for line in self.running if not line.over]
        for _ in range(self.max_batch):  # texts may be over at once, and of them there is no end
            if self._ready and self._has_room(self._ready[0][0]):
                self._start_next(pieces)
        self._drop(lambda ticket: ticket.done)
        self.running = [line for line in self.running if not line.over]
        return [piece for piece in pieces if not piece.ticket.cancelled]

    @property
    def _may_begin(self) -> bool:
        """Whether another prompt may be read: one at a time, and one beside a request of many
        texts, which then take turns."""
        if self._filling is not None:
            return False
        return len(self._ready) == 1 if self._ready else len(self.running) < self.max_batch

    def _fits(self, ticket: Ticket) -> bool:
        """Whether what it needs may be held now; alone it is let in whatever that is."""
        budget = self._budget
        return budget is None or not budget.held or budget.has_room(self._needed(ticket))

    def _has_room(self, ticket: Ticket) -> bool:
        """Whether one more text may run beside the others."""
        return len(self.running) < min(self.max_batch, ticket.side_by_side)

    def _begin_next(self, pieces: list[Piece]) -> None:
        """Turn to the request that waits longest. A search with beams runs to its end at once."""
        while self.waiting:
            ticket = self.waiting[0]
            if not (ticket.cancelled or self._fits(ticket)):
                return
            self.waiting.popleft()
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

    def _read(
        self, lines: Sequence[Line], pieces: list[Piece]
    ) -> list[tuple[Line, numpy.ndarray | None]]:
        """Let every line read what is due; None for those that read by themselves.

        An error of the model ends the requests that were read together.
        """
        groups: dict[Reader, list[tuple[Line, list[int]]]] = {}
        found: list[tuple[Line, numpy.ndarray | None]] = []
        for line in lines:
            if line.row.reading is None:
                found.append((line, None))
                continue
            reader, ids = self._writer.reader(line.ticket.options), line.row.due(self.chunk)
            groups.setdefault(reader, []).append((line, ids))
            if line.row.slid is not None:
                last = counted(line.row.slid, "token")
                line.ticket.tell(f"the context is full, going on from the last {last}")
        for reader, group in groups.items():
            try:
                for line, ids in group:
                    if line is self._filling and line.ticket.echo is not None:
                        line.ticket.echo.read(reader, ids, self._writer.size)
                logits = reader.read([(line.row.reading, ids) for line, ids in group])
            except Exception as error:
                for line, _ in group:
                    self._fail(line.ticket, error, pieces)
                continue
            found += [(line, row) for (line, _), row in zip(group, logits)]
        if self._filling is not None and not self._filling.ticket.done:
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
            self._ready.rotate(-1)

    def _start(self, line: Line, logits: numpy.ndarray | None, pieces: list[Piece]) -> None:
        """The first token of a text, and its prompt before it where that is wanted."""
        ticket, state = line.ticket, line.row.state
        if ticket.options.echo:
            pieces += ticket.echoed(line.index, self._writer.tokenizer)
        if state is not None and state.finished:
            self._finish(line, Piece(ticket, line.index, "", finish_reason="stop"), pieces)
        elif not ticket.prompt.limit:
            self._finish(line, Piece(ticket, line.index, "", finish_reason="length"), pieces)
        else:
            self.running.append(line)
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
        ticket.written += 1
        ended = id in line.row.ends
        piece = Piece.of(ticket, line.index, text, id, ended, logprob, top, reason)
        self._finish(line, piece, pieces)

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
        for ticket in [one for one in list(self.waiting) if gone(one)]:
            self.waiting.remove(ticket)  # in place: others queue while a step runs
        self._ready = deque(entry for entry in self._ready if not gone(entry[0]))
        self.running = [line for line in self.running if not gone(line.ticket)]

"""The tickets of one request on their way, as the event loop follows them."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING

from minillm.generation import Engine, Piece, Ticket

if TYPE_CHECKING:
    from minillm.serve.worker import Worker


class _Alarm:
    """Rings at the deadline and whenever `late` was not asked for `patience` seconds: one timer,
    not a timeout of each token."""

    def __init__(self, deadline: float, patience: float, ring: Callable[[], None]) -> None:
        self._deadline, self._patience, self._ring = deadline, patience, ring
        self._loop = asyncio.get_running_loop()  # whose time is that of time.monotonic()
        self._asked = self._loop.time()
        self._timer = self._loop.call_at(self._next, self._look)

    @property
    def _next(self) -> float:
        return min(self._deadline, self._asked + self._patience)

    def _look(self) -> None:
        now = self._loop.time()
        if self._next <= now:
            self._asked = now
            self._ring()
        if now < self._deadline:
            self._timer = self._loop.call_at(self._next, self._look)

    def late(self) -> bool:
        """Whether the deadline has passed."""
        self._asked = self._loop.time()
        return self._asked >= self._deadline

    def cancel(self) -> None:
        self._timer.cancel()


class Follow:
    """The tickets of one request on their way, as the event loop sees them.

    `asked`, `first` and `ended` are times of time.monotonic(): when they were queued, when the
    first token was there, when the last one was over.
    """

    def __init__(
        self, worker: Worker, engine: Engine, tickets: Sequence[Ticket], model: str
    ) -> None:
        self.engine, self.tickets, self.model = engine, list(tickets), model
        self.asked = time.monotonic()
        self.first: float | None = None
        self.ended: float | None = None
        self.ends: Counter[str] = Counter()  # texts by why they ended
        self._given: deque[list[Piece] | None] = deque()
        self._wanted: asyncio.Future[None] | None = None
        self.later = deque(self.tickets)  # those that are not queued yet
        self._worker = worker

    async def pieces(
        self, deadline: float, patience: float = math.inf
    ) -> AsyncGenerator[list[Piece], None]:
        """What steps add, as long as something does; [] after `patience` seconds of nothing.
        Raises the error of a ticket, and TimeoutError at the `deadline`, a time of
        time.monotonic()."""
        alarm = _Alarm(deadline, patience, lambda: self.put([]))
        try:
            while (pieces := await self._next()) is not None:
                if alarm.late():  # also where it is the client that takes so long
                    raise TimeoutError
                yield pieces
        finally:
            alarm.cancel()
        error = next((ticket.error for ticket in self.tickets if ticket.error is not None), None)
        if error is not None:
            raise error

    def put(self, pieces: list[Piece] | None) -> None:
        """Add what a step gave, or None for the end; in the event loop."""
        self._given.append(pieces)
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    async def _next(self) -> list[Piece] | None:
        """What has come since; one silence is told as well as several."""
        while not self._given:
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
        found = self._given.popleft()
        if found is None:
            return None
        found = list(found)
        while self._given and (more := self._given[0]) is not None:
            found += more
            self._given.popleft()
        return found

    def cancel(self) -> None:
        """Nobody wants it any more: the step that runs now is the last one that works on it."""
        self._worker.cancel(self)

    def enqueue(self) -> None:
        """Queue as many tickets as are written at a time: a request of many prompts lets others go
        between. Called by the worker."""
        open_ones = sum(not one.done for one in self.tickets) - len(self.later)
        while self.later and open_ones < self.engine.max_batch:
            ticket = self.later.popleft()
            if not ticket.done:
                self.engine.enqueue(ticket)
                open_ones += 1

    @property
    def cancelled(self) -> bool:
        """Whether it was given up before its end."""
        return any(ticket.cancelled for ticket in self.tickets)

    @property
    def done(self) -> bool:
        return all(ticket.done for ticket in self.tickets)

"""The one thread that steps every engine, and how the event loop follows what it writes."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from minillm.generation import Engine, Piece, Ticket

log = logging.getLogger("minillm.serve")


class Stopped(RuntimeError):
    """Requests are not worked on any more, and why."""


class _Job:
    """Work of a model between two steps, and who awaits it in the event loop."""

    def __init__(self, work: Callable[[], Any], found: asyncio.Future[Any]) -> None:
        self._work, self._found = work, found

    def run(self) -> None:
        if self._found.cancelled():
            return
        try:
            result = self._work()
        except Exception as error:
            self.end(error)
        else:
            self.end(None, result)

    def end(self, error: Exception | None, result: Any = None) -> None:
        """Tell how it went; from any thread."""
        loop = self._found.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._settle, error, result)

    def _settle(self, error: Exception | None, result: Any) -> None:
        if self._found.done():
            return
        if error is None:
            self._found.set_result(result)
        else:
            self._found.set_exception(error)


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
        """What each step adds, as long as something does; [] after `patience` seconds of nothing.
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
        while not self._given:
            self._wanted = asyncio.get_running_loop().create_future()
            await self._wanted
        return self._given.popleft()

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


class Worker:
    """Steps engines in turn in a thread of its own; requests come and go from the event loop.

    One thread: engines share the cores, and none holds another up for longer than a step. `call`
    runs other work of a model between two steps.
    """

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.step_began: float | None = None  # time.monotonic() of the step that runs now
        self.mean_seconds = 0.0  # that the latest requests took
        self.on_end: list[Callable[[Follow], None]] = []  # told, in the thread, what is over
        self._changed = threading.Condition()
        self._follows: dict[Ticket, Follow] = {}
        self._jobs: list[_Job] = []
        self._stopping = False
        self._given_up: str | None = None  # why nothing more is worked on
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="minillm engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; `loop` is the one that requests come from."""
        self._loop = loop
        self._thread.start()

    def stop(self, seconds: float = 10.0) -> None:
        """End the thread; what still runs ends with an error. A step that hangs is not waited for
        any longer than that: the thread is `alive` then."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def follows(self) -> list[Follow]:
        """Requests that were taken and are not over."""
        with self._changed:
            return list(dict.fromkeys(self._follows.values()))

    def follow(self, engine: Engine, tickets: Sequence[Ticket], model: str) -> Follow:
        """Queue the tickets of a request to the model of a name; in the event loop."""
        found = Follow(self, engine, tickets, model)
        with self._changed:
            self._require_running()
            self._follows |= dict.fromkeys(tickets, found)
            found.enqueue()
            self._changed.notify()
        return found

    def cancel(self, follow: Follow) -> None:
        for ticket in follow.tickets:
            if not ticket.done:
                follow.engine.cancel(ticket)
        with self._changed:
            self._changed.notify()

    def give_up(self, reason: str) -> None:
        """End every request with an error, and take no further one."""
        with self._changed:
            self._given_up = reason
            jobs, self._jobs = self._jobs, []
            for job in jobs:
                job.end(Stopped(reason))
            for ticket, follow in self._follows.items():
                ticket.error = ticket.error or Stopped(reason)
                follow.engine.cancel(ticket)
            self._changed.notify()

    def took(self, seconds: float) -> None:
        """Note how long a request took."""
        self.mean_seconds += (seconds - self.mean_seconds) / 8

    async def call(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, done between two steps; given up before it began if this is."""
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with self._changed:
            self._require_running()
            self._jobs.append(_Job(work, found))
            self._changed.notify()
        return await found

    def _require_running(self) -> None:
        if self._given_up is not None:
            raise Stopped(self._given_up)
        if self.failure is not None or self._stopping:
            raise Stopped("the engine has stopped")

    def _run(self) -> None:
        try:
            while self._wait():
                self.step_began = time.monotonic()
                self._step()
                self.step_began = None
        except BaseException as error:
            self.failure = error
            log.critical("the engine has stopped", exc_info=error)
        finally:
            self._end_all()

    def _step(self) -> None:
        """One job, and a step of every engine that has something to do. Of models that were
        replaced nothing is left here once their requests are over."""
        with self._changed:
            jobs, self._jobs = self._jobs[:1], self._jobs[1:]
            engines = list(dict.fromkeys(one.engine for one in self._follows.values()))
        for job in jobs:
            job.run()
        for engine in engines:
            self._deliver(engine.step())

    def _wait(self) -> bool:
        """Until there is something to do; False for the end."""
        with self._changed:
            while not (self._jobs or self._follows or self._stopping):
                self._changed.wait()
            return not self._stopping

    def _deliver(self, pieces: list[Piece]) -> None:
        """Hand out what a step gave, and forget what is over."""
        given: dict[Follow, list[Piece]] = {}
        for piece in pieces:
            if piece.finish_reason == "error":  # the ticket's own error says it
                continue
            follow = self._follows[piece.ticket]
            given.setdefault(follow, []).append(piece)
            if piece.finish_reason is not None:
                follow.ends[piece.finish_reason] += 1
        now = time.monotonic()
        for follow in given:
            follow.first = follow.first or now
        with self._changed:
            over = dict.fromkeys(one for one in self._follows.values() if one.done)
            for follow in over:
                for ticket in follow.tickets:
                    del self._follows[ticket]
            for follow in dict.fromkeys(self._follows.values()):
                follow.enqueue()
        self._hand_over([*given.items(), *((follow, None) for follow in over)])

    def _hand_over(self, given: Sequence[tuple[Follow, list[Piece] | None]]) -> None:
        for follow, pieces in given:
            if pieces is None:
                follow.ended = time.monotonic()
                self.took(follow.ended - follow.asked)
                for listener in self.on_end:
                    listener(follow)
        if given and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_put, given)

    def _end_all(self) -> None:
        with self._changed:
            left, self._follows = list(self._follows.values()), {}
            jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.end(Stopped("the engine has stopped"))
        for follow in dict.fromkeys(left):
            for ticket in follow.tickets:
                ticket.error = ticket.error or Stopped("the engine has stopped")
            self._hand_over([(follow, None)])


def _put(given: Sequence[tuple[Follow, list[Piece] | None]]) -> None:
    for follow, pieces in given:
        follow.put(pieces)

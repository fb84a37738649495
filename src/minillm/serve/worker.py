"""The one thread that steps every engine."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from minillm.generation import Engine, Piece, Ticket
from minillm.serve.delivery import Delivery
from minillm.serve.follow import Follow

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
        self._delivery: Delivery  # once started
        self._thread = threading.Thread(target=self._run, name="minillm engine", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; `loop` is the one that requests come from."""
        self._delivery = Delivery(loop)
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
        begun = [follow for follow in given if follow.first is None]
        for follow in begun:
            follow.first = now
        with self._changed:
            over = dict.fromkeys(one for one in self._follows.values() if one.done)
            for follow in over:
                for ticket in follow.tickets:
                    del self._follows[ticket]
            for follow in dict.fromkeys(self._follows.values()):
                follow.enqueue()
        for follow in over:
            self._end(follow)
        ends = [(follow, None) for follow in over]
        self._delivery.send([*given.items(), *ends], at_once=bool(begun or ends))

    def _end(self, follow: Follow) -> None:
        follow.ended = time.monotonic()
        self.took(follow.ended - follow.asked)
        for listener in self.on_end:
            listener(follow)

    def _end_all(self) -> None:
        with self._changed:
            left, self._follows = list(self._follows.values()), {}
            jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.end(Stopped("the engine has stopped"))
        for follow in dict.fromkeys(left):
            for ticket in follow.tickets:
                ticket.error = ticket.error or Stopped("the engine has stopped")
            self._end(follow)
            self._delivery.send([(follow, None)], at_once=True)

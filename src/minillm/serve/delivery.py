"""How what a thread writes reaches the event loop, in few wakings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from minillm.generation import Piece
from minillm.serve.follow import Follow

PACE = 0.02  # seconds: more pictures than people see, and what a waking costs is lost to decoding

Given = tuple[Follow, list[Piece] | None]  # None: it is over


class Delivery:
    """Puts pieces into the requests that follow them, at most PACE seconds after `send`. A waking
    of the event loop, a write to a socket and a waking client take their time from the cores that
    decode; of what comes faster than that, several tokens share one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: list[Given] = []
        self._looking = False  # whether the event loop looks again by itself
        self._timer: asyncio.TimerHandle | None = None

    def send(self, given: Sequence[Given], at_once: bool) -> None:
        """From the thread; `at_once` for what nobody should wait for."""
        if not given or self._loop.is_closed():
            return
        with self._lock:
            self._waiting += given
            wake, self._looking = at_once or not self._looking, True
        if wake:
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._lock:
            found, self._waiting = self._waiting, []
            self._looking = bool(found)
        for follow, pieces in found:
            follow.put(pieces)
        if found:
            self._timer = self._loop.call_later(PACE, self._take)

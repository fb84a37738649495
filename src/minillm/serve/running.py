"""Running the application on a socket until a signal ends it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from minillm.quantities import counted
from minillm.serve.protocol import protocol_of
from minillm.serve.settings import Settings

AFTER = 5  # seconds that answers to requests that were given up have to get out


def bind(settings: Settings) -> socket.socket:
    """The socket to listen on; ValueError where the address is taken or is none."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((settings.host, settings.port))
        found.listen(512)
    except OSError as error:
        found.close()
        told = (error.strerror or str(error)).lower()
        raise ValueError(
            f"serve: {settings.host}:{settings.port}: {told}, a free address is needed; --host, "
            "--port"
        ) from None
    return found


class Server(uvicorn.Server):
    """Ends at SIGINT or SIGTERM, or when `end` is called: takes nothing new, finishes what runs as
    far as time allows, and tells `on_notice` how that went. A second signal gives up what runs."""

    def __init__(
        self, app: Any, settings: Settings, on_notice: Callable[[str], None] = lambda text: None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_of(settings),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=round(settings.idle_seconds),
                timeout_graceful_shutdown=round(settings.shutdown_seconds) + AFTER,
                h11_max_incomplete_event_size=settings.max_headers,
            )
        )
        self._state, self._settings, self._on_notice = app.state, settings, on_notice
        self._left = 0
        self._impatient = False
        self._loop: asyncio.AbstractEventLoop | None = None  # once it ends

    @property
    def _running(self) -> int:
        """Requests that were let in and are not over."""
        return sum(self._state.admitted.values())

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._impatient = self.should_exit
        self.should_exit = True
        if self._impatient and self._loop is not None:
            self._loop.call_soon_threadsafe(self._give_up)

    def end(self) -> None:
        """As a signal does; from any thread."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._state.ending = True
        self._loop = loop = (
            asyncio.get_running_loop()
        )  # before it is told: signals may follow at once
        running, seconds = self._running, self._settings.shutdown_seconds
        if running:
            told = counted(running, "request")
            self._on_notice(f"ending: {told} to finish, {seconds:g} s for it")
        # also for requests that are just being let in
        loop.call_later(0 if self._impatient else seconds, self._give_up)
        await super().shutdown(sockets)
        done = max(0, running - self._left)
        if running:
            self._on_notice(f"ended: {done:,} of {told} finished, {self._left:,} given up")

    def _give_up(self) -> None:
        if self._left or not self._running:
            return
        self._left = self._running
        worker = self._state.catalogue.worker
        worker.give_up("the server ends, and its time for running requests is over")
        asyncio.get_running_loop().call_later(AFTER - 1, self._abort)

    def _abort(self) -> None:
        """Leave clients that do not take what they are told."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]

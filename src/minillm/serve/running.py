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
    far as time allows, and tells `on_notice` how that went. A second SIGINT ends it at once."""

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

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # which would be raised again at the end

    def end(self) -> None:
        """As a signal does; from any thread."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._state.ending = True
        worker = self._state.catalogue.worker
        running = worker.follows
        if running:
            seconds = self._settings.shutdown_seconds
            told = counted(len(running), "request")
            self._on_notice(f"ending: {told} to finish, {seconds:g} s for it")
            asyncio.get_running_loop().call_later(seconds, self._give_up)
        await super().shutdown(sockets)
        done = len(running) - self._left
        if running:
            self._on_notice(f"ended: {done:,} of {told} finished, {self._left:,} given up")

    def _give_up(self) -> None:
        worker = self._state.catalogue.worker
        self._left = len(worker.follows)
        worker.give_up("the server ends, and its time for running requests is over")

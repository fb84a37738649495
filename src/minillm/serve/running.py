"""Running the application on a socket until a signal ends it."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn

from minillm.serve.settings import Settings


def bind(settings: Settings) -> socket.socket:
    """The socket to listen on; OSError where the address is taken or is none."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((settings.host, settings.port))
        found.listen(512)
    except BaseException:
        found.close()
        raise
    return found


class Server(uvicorn.Server):
    """Ends at SIGINT or SIGTERM: takes nothing new, finishes what runs as far as time allows."""

    def __init__(self, app: Any, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=round(settings.shutdown_seconds),
                h11_max_incomplete_event_size=16 << 10,
            )
        )
        self._state = app.state

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._state.ending = True
        super().handle_exit(sig, frame)

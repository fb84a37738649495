"""Uvicorn's protocol of a connection, with bounds on how long a client may take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from minillm.serve.errors import ApiError
from minillm.serve.settings import Settings

LINGER = 2.0  # seconds to read on from a client that was answered before it had sent everything


def protocol_of(settings: Settings) -> type[H11Protocol]:
    """The protocol that keeps to the bounds of the settings."""
    return type("Protocol", (BoundedProtocol,), {"settings": settings})


class _Patient:
    """A transport that is closed as its protocol says."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport, self.close = transport, close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(H11Protocol):
    """Closes a connection whose client takes longer than the settings allow to send the headers of
    a request, or to read what it is sent; takes no more connections than they allow.

    The body has its bound where it is read. What is no HTTP is refused in OpenAI's form.
    """

    settings: Settings
    _refused = False  # is answered for good
    _lingers = False  # is answered and still sends its body: no byte of it buys more time
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._close_now = transport.close
        super().connection_made(_Patient(transport, self._close))  # type: ignore[arg-type]
        if len(self.connections) > self.settings.max_connections:
            self._refuse(503, "too many connections, fewer are needed; try again later")
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)
        self.transport.close = self._close_now  # type: ignore[method-assign]  # holds us no more

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        super().data_received(data)
        if self._refused or (self._lingers and self.conn.their_state is h11.SEND_BODY):
            return
        self._lingers = False
        if self.conn.their_state is not h11.IDLE:
            self._cancel_timer()
        elif self._timer is None:  # a further request on the same connection
            self._await_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._lingers = True
            self._linger()

    def pause_writing(self) -> None:
        super().pause_writing()
        seconds = self.settings.write_seconds
        self._write_timer = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._cancel_write_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "the request is not valid HTTP, or its headers are too large")

    def _await_headers(self) -> None:
        seconds = self.settings.header_seconds
        told = f"headers: not whole after {seconds:g} s, a faster client is needed"
        self._timer = self.loop.call_later(seconds, self._refuse, 408, told)

    def _refuse(self, status: int, message: str) -> None:
        """Answer without a request, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        body = json.dumps(ApiError(status, message).content).encode()
        headers: list[Any] = [("content-type", "application/json"), ("connection", "close"),
                              ("content-length", str(len(body)))]  # fmt: skip
        try:
            event = h11.Response(status_code=status, headers=headers)
            for part in (event, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part))
        except h11.LocalProtocolError:  # an answer is on its way
            pass
        self._leave()

    def _close(self) -> None:
        """What uvicorn calls after an answer; its client may still be sending the body."""
        if self._refused or self.conn.their_state is not h11.SEND_BODY:
            self._close_now()
            return
        self._refused = True
        self._leave()

    def _leave(self) -> None:
        """Nothing more is said, and what still comes is not looked at."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._linger()

    def _linger(self) -> None:
        """Close a little later: what still comes in would make the system drop the answer."""
        self._cancel_timer()
        self._timer = self.loop.call_later(LINGER, self._close_now)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

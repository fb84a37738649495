"""A line for every request, which has an id; and the form that lines have."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("minillm.serve")
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
CLIENT_LEFT = 499
FORMS = ("text", "json")


class Observed:
    """Middleware: gives every request an id (the client's own X-Request-ID, where that is one) and
    logs its answer. What was asked is logged only with `texts`.

    `answered` is told the scope and the status of each.
    """

    def __init__(
        self,
        app: ASGIApp,
        texts: bool = False,
        answered: Callable[[Scope, int], None] | None = None,
    ) -> None:
        self._app, self._texts, self._answered = app, texts, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["id"] = request_id
        began, status, whole = time.monotonic(), 500, False
        body: list[bytes] = []

        async def told(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            else:
                whole = not message.get("more_body", False)
            await send(message)

        async def heard() -> Message:
            message = await receive()
            if self._texts:
                body.append(message.get("body", b""))
            return message

        try:
            await self._app(scope, heard, told)
        finally:
            status = status if whole else CLIENT_LEFT if status < 500 else status
            if self._answered is not None:
                self._answered(scope, status)
            self._log(scope, status, began, b"".join(body))
            scope["state"].pop("follow", None)  # an idle connection would keep it, and its model

    def _log(self, scope: Scope, status: int, began: float, body: bytes) -> None:
        state = scope["state"]
        facts: dict[str, Any] = {
            "id": state["id"],
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": _since(began, time.monotonic()),
        }
        facts |= {name: state[name] for name in ("model", "code") if state.get(name) is not None}
        if "key" in state:
            facts["key"] = state["key"].hex()[:8]  # of its digest
        if "read" in state:
            facts["prompt_tokens"] = state["read"]
        follow = state.get("follow")
        if follow is not None:
            facts["prompt_tokens"] = sum(ticket.prompt_tokens for ticket in follow.tickets)
            facts["cached_tokens"] = sum(ticket.reused for ticket in follow.tickets)
            if follow.first is not None:
                facts["first_token_ms"] = _since(began, follow.first)
            facts["completion_tokens"] = sum(ticket.written for ticket in follow.tickets)
        if self._texts:
            facts["body"] = body.decode("utf-8", "replace")
        log.info("request", extra={"facts": facts})


class Text(logging.Formatter):
    """time level message name=value ..., on one line."""

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        told = "".join(f" {name}={_shown(value)}" for name, value in facts.items())
        line = f"{_when(record)} {record.levelname.lower()} {record.getMessage()}{told}"
        if record.exc_info is None:
            return line
        return f"{line}\n{self.formatException(record.exc_info)}"


class Json(logging.Formatter):
    """The same as one object."""

    def format(self, record: logging.LogRecord) -> str:
        found = {"time": _when(record), "level": record.levelname.lower()}
        found |= {"message": record.getMessage()} | getattr(record, "facts", {})
        if record.exc_info is not None:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(found)


def _since(began: float, ended: float) -> float:
    """Milliseconds between two times of time.monotonic()."""
    return round(1000 * (ended - began), 1)


def _when(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _shown(value: Any) -> str:
    """A value that no other line can be made of."""
    text = str(value)
    return text if re.fullmatch(r"[!#-~]+", text) else json.dumps(text)


def write_logs(form: str) -> None:
    """Lines of the server, and of uvicorn, which tells of failures, go to standard error from now
    on, as "text" or "json"."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    for one in (log, logging.getLogger("uvicorn")):
        one.handlers, one.propagate = [handler], False
    log.setLevel(logging.INFO)

"""What a client is told when it cannot be served, in OpenAI's form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
         429: "rate_limit_error"}  # fmt: skip


class ApiError(Exception):
    """A refusal: HTTP status, message in one line, the field it is about, a code for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    @property
    def content(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": self.message,
                "type": KINDS.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }


def from_options(error: Exception, names: dict[str, str]) -> ApiError:
    """A refusal of the engine as one of a request.

    Its messages begin with the name of an option as the command line spells it; `names` are the
    request's fields by options.
    """
    message = " ".join(str(error).split()) or type(error).__name__
    message = message.removeprefix("generate: ")
    match = re.match(r"([a-z]+(?:-[a-z]+)*)\b", message)
    option = match[1].replace("-", "_") if match else ""
    full = "the model's context" in message
    name = names.get(option, names.get("prompt") if full else None)
    if option == "id":
        name = names.get("prompt")
        message = f"{name}: {message}"
    elif match and option in names:
        message = names[option] + message[match.end() :]
    return ApiError(400, message, param=name, code="context_length_exceeded" if full else None)


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """What is wrong with the value of a field, as a refusal that names it."""
    try:
        yield
    except (ValueError, TypeError, IndexError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        raise ApiError(400, f"{name}: {message}", param=name, code="invalid_value") from None


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.state.code = error.code
    return JSONResponse(error.content, error.status, error.headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """What the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    headers = dict(error.headers or {})
    if error.status_code == 405:
        known = headers.get("Allow", headers.get("allow", "another method"))
        found = ApiError(405, f"{where}: the path knows {known}, one of these is needed")
    elif error.status_code == 404:
        found = ApiError(404, f"{where}: no such path", code="unknown_url")
    else:
        found = ApiError(error.status_code, f"{where}: {error.detail}")
    return JSONResponse(found.content, error.status_code, headers)


async def on_failure(request: Request, error: Exception) -> Response:
    """What should not happen; the text of the error stays in the log."""
    found = ApiError(500, "the server failed on this request, its log says how")
    return JSONResponse(found.content, 500, {"X-Request-ID": request.state.id})

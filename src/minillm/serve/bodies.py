"""Reading request bodies: bounded in size and time, strict in form."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.requests import ClientDisconnect, Request

from minillm.serve.errors import ApiError
from minillm.serve.fields import Object

LARGE = 64 << 10  # bytes that are checked in a thread: streams would wait for it
DEEPEST = 100  # lists and objects in each other
TOO_DEEP = f"more than {DEEPEST} lists and objects in each other, fewer are needed"


async def read_body(request: Request, form: Object) -> dict[str, Any]:
    """The fields of a request's JSON body; ApiError for one that is none, too large or too slow.

    The request's time begins once it is whole: `request.state.deadline`.
    """
    settings = request.app.state.settings
    _check_type(request)
    _check_coding(request)
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > settings.max_body:
        raise _too_large(settings.max_body)
    parts, held = [], 0
    try:
        async with asyncio.timeout(settings.body_seconds):
            async for part in request.stream():
                held += len(part)
                if held > settings.max_body:
                    raise _too_large(settings.max_body)
                parts.append(part)
    except TimeoutError:
        raise ApiError(
            408,
            f"body: not whole after {settings.body_seconds:g} s, a faster client is needed",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise ApiError(400, "body: the client left before its end") from None
    request.state.deadline = time.monotonic() + settings.request_seconds
    data = b"".join(parts)
    if held <= LARGE:
        return form.read("", parsed(data))
    try:
        async with asyncio.timeout(settings.request_seconds):
            return await asyncio.to_thread(lambda: form.read("", parsed(data)))
    except TimeoutError:
        raise ApiError(
            504,
            f"body: not checked after {settings.request_seconds:g} s, as long as a request is "
            "given; a smaller one is needed",
            code="deadline_exceeded",
        ) from None


def _check_type(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415,
            f"content-type: {kind[:100] or 'none'}, application/json is needed",
            code="unsupported_media_type",
        )


def _check_coding(request: Request) -> None:
    """A body is taken as it is: one that says it is coded would be read as something else."""
    for line in request.headers.getlist("content-encoding"):
        for coding in line.split(","):
            if coding.strip().lower() not in ("", "identity"):
                raise ApiError(
                    415,
                    f"content-encoding: {coding.strip()[:100]}, identity is needed",
                    code="unsupported_media_type",
                    headers={"Accept-Encoding": "identity"},
                )


def _too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"body: more than {most:,} bytes, at most so many are taken",
        code="body_too_large",
        headers={"Connection": "close"},
    )


def parsed(data: bytes, name: str | None = None) -> Any:
    """The value of a JSON text in UTF-8, without NaN, without a name that stands twice; the text
    is that of a field, or the body."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        fact = f"byte 0x{data[error.start]:02X} at {error.start} is not UTF-8, it is needed"
        raise _invalid(name, fact) from None
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except RecursionError:
        raise _invalid(name, TOO_DEEP) from None
    except ValueError as error:
        raise _invalid(name, f"not valid JSON ({error})") from None
    if depth(value) > DEEPEST:
        raise _invalid(name, TOO_DEEP)
    return value


def _invalid(name: str | None, fact: str) -> ApiError:
    code = "invalid_json" if name is None else "invalid_value"
    return ApiError(400, f"{name or 'body'}: {fact}", param=name, code=code)


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:100]!r} stands twice in one object")
        if not name.isascii():
            name.encode("utf-8")  # a lone surrogate, of which no answer could tell
        found[name] = value
    return found


def depth(value: Any) -> int:
    """How many lists and objects stand in each other."""
    deepest, left = 0, [(value, 1)]
    while left:
        one, level = left.pop()
        if isinstance(one, dict | list):
            deepest = max(deepest, level)
            left += [(part, level + 1) for part in (one.values() if isinstance(one, dict) else one)]
    return deepest

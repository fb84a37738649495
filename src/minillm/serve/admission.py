"""How many requests of a model are let in, to run or to wait."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from starlette.requests import Request

from minillm.serve.errors import ApiError


def require_room(request: Request, owner: Hashable) -> None:
    """ApiError where as many requests are let in as may be, or the server ends; the `owner` is the
    engine that writes, or an encoder."""
    state = request.app.state
    if state.ending:
        raise ApiError(503, "the server ends, another one is needed", headers={"Retry-After": "5"})
    most = state.settings.max_concurrency + state.settings.max_queue
    if state.admitted.get(owner, 0) >= most:
        seconds = min(60, max(1, math.ceil(state.catalogue.worker.mean_seconds / 2)))
        raise ApiError(
            429,
            f"{most} requests are running or waiting, as many as are let in; try again in "
            f"{seconds} s",
            code="queue_full",
            headers={"Retry-After": str(seconds)},
        )


def enter(request: Request, owner: Hashable) -> None:
    """Let a request in; ApiError where there is no room."""
    require_room(request, owner)
    admitted = request.app.state.admitted
    admitted[owner] = admitted.get(owner, 0) + 1


def leave(request: Request, owner: Hashable) -> None:
    """It is over."""
    admitted = request.app.state.admitted
    admitted[owner] -= 1
    if not admitted[owner]:
        del admitted[owner]


@contextmanager
def let_in(request: Request, owner: Hashable) -> Iterator[None]:
    """Let a request in for as long as it is worked on."""
    enter(request, owner)
    began = time.monotonic()
    try:
        yield
        request.app.state.catalogue.worker.took(time.monotonic() - began)
    finally:
        leave(request, owner)

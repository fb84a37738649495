"""The application: its paths, and what stands before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route

from minillm.serve import page
from minillm.serve.catalogue import Catalogue
from minillm.serve.errors import ApiError, on_api_error, on_failure, on_http_error
from minillm.serve.logs import Observed
from minillm.serve.openapi import OPERATIONS, openapi
from minillm.serve.reload import Reloader, reload
from minillm.serve.security import Guard
from minillm.serve.settings import Settings


def routes() -> list[BaseRoute]:
    published = [operation.route() for operation in OPERATIONS]
    return [*published, Route("/openapi.json", openapi), *page.routes()]


def build(settings: Settings, catalogue: Catalogue, reloader: Reloader | None = None) -> Starlette:
    """The ASGI application of a catalogue; its engines run as long as the application does.

    Handlers find in `request.app.state`: `settings`, `catalogue`, `admitted` (requests of each
    engine or encoder that were let in), `ending` (whether the server was asked to end) and, where
    they are asked for, `metrics` and `reloader`.
    """
    paths, metrics = routes(), None
    admitted: dict[Any, int] = {}
    observed: dict[str, Any] = {"texts": settings.log_texts}
    if settings.metrics:
        from minillm.serve import metrics as module

        metrics = module.Metrics(catalogue, admitted)
        observed["answered"] = metrics.answered
        paths.append(Route("/metrics", module.metrics))
        if reloader is not None:
            reloader.listeners.append(metrics.reloaded)
    if reloader is not None and settings.admin_keys:
        paths.append(Route("/admin/reload", reload, methods=["POST"]))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await asyncio.to_thread(catalogue.prepare)
        catalogue.worker.start(asyncio.get_running_loop())
        task = None
        if reloader is not None and settings.reload:
            task = asyncio.ensure_future(reloader.watch())
        yield
        if task is not None:
            task.cancel()
        await asyncio.to_thread(catalogue.worker.stop)

    app = Starlette(
        routes=paths,
        middleware=[Middleware(Observed, **observed), Middleware(Guard, settings=settings)],
        exception_handlers={
            ApiError: on_api_error,
            HTTPException: on_http_error,
            Exception: on_failure,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # to http, where a proxy ends TLS: a key would follow
    app.state.settings, app.state.catalogue = settings, catalogue
    app.state.admitted, app.state.ending, app.state.metrics = admitted, False, metrics
    app.state.reloader = reloader
    return app

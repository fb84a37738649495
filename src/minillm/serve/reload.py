"""New models in the place of old ones, while requests go on."""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from minillm.formats import hf
from minillm.models.folder import logits_of
from minillm.serve.catalogue import Catalogue, Served
from minillm.serve.errors import ApiError

log = logging.getLogger("minillm.serve")
INTERVAL = 2.0  # seconds between two looks at the files
Stamp = frozenset[tuple[str, int, int]]


class Reloader:
    """Opens all models again beside those that serve, and lets them take over if all are good.

    Requests that run are finished by the models that began them. `open_all` gives the models in
    the order of the catalogue; `paths` are the files and folders that they come from.
    """

    def __init__(
        self, catalogue: Catalogue, open_all: Callable[[], list[Served]], paths: Sequence[Path]
    ) -> None:
        self._catalogue, self._open_all, self._paths = catalogue, open_all, paths
        self._running = False

    async def reload(self) -> list[Served]:
        """The models that serve from now on. ValueError or OSError, in one line, for models that
        are not good, RuntimeError while another reload runs; the old ones go on then."""
        if self._running:
            raise RuntimeError("reload: one is running, it has to end first")
        self._running = True
        try:
            found = await asyncio.to_thread(self._opened)
        finally:
            self._running = False
        for served in found:
            self._catalogue.replace(served)
        return found

    def _opened(self) -> list[Served]:
        with warnings.catch_warnings():  # of logits that differ from those stored with the weights
            warnings.simplefilter("error", UserWarning)
            try:
                found = self._open_all()
            except UserWarning as warning:
                raise ValueError(str(warning)) from None
        for served in found:
            config = served.model.config
            prompt = hf.reference_prompt(config.vocab_size, config.context)
            if not numpy.isfinite(logits_of(served.model)(prompt)).all():
                raise ValueError(f"{served.path}: logits that are not finite, finite are needed")
        return found

    async def watch(self, interval: float = INTERVAL) -> None:
        """Reload whenever the files have changed and then stayed the same for an interval."""
        known = before = await asyncio.to_thread(self._stamp)
        while True:
            await asyncio.sleep(interval)
            now = await asyncio.to_thread(self._stamp)
            if now == before and now != known:
                known = now
                await self._try()
            before = now

    async def _try(self) -> None:
        began = time.monotonic()
        try:
            found = await self.reload()
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            log.error("reload: the old models go on: %s", " ".join(str(error).split()))
        else:
            names = ", ".join(served.name for served in found)
            log.info("reloaded %s in %.1f s", names, time.monotonic() - began)

    def _stamp(self) -> Stamp:
        """The state of all files; one that is gone or going is left out."""
        found = []
        for path in self._paths:
            for file in [*path.iterdir()] if path.is_dir() else [path]:
                try:
                    stat = file.stat()
                except FileNotFoundError:
                    continue
                found.append((str(file), stat.st_mtime_ns, stat.st_size))
        return frozenset(found)


async def reload(request: Request) -> Response:
    """POST /admin/reload"""
    reloader: Any = request.app.state.reloader
    began = time.monotonic()
    try:
        found = await reloader.reload()
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise ApiError(409, f"{message}; the old models go on", code="not_reloaded") from None
    models = [{"id": served.name, "fingerprint": served.fingerprint} for served in found]
    return JSONResponse({"models": models, "seconds": round(time.monotonic() - began, 3)})

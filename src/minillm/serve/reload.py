"""New models in the place of old ones, while requests go on."""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from minillm.formats import hf
from minillm.generation.drafting import require_same_vocabulary
from minillm.models.folder import LogitsDiffer, logits_of
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
        self.listeners: list[Callable[[bool], None]] = []  # told whether the new models serve

    async def reload(self) -> list[Served]:
        """The models that serve from now on. ValueError or OSError, in one line, for models that
        are not good, RuntimeError while another reload runs; the old ones go on then."""
        if self._running:
            raise RuntimeError("reload: one is running, it has to end first")
        self._running, began = True, time.monotonic()
        try:
            found = await asyncio.to_thread(self._opened)
        except Exception as error:
            log.error("reload: the old models go on: %s", " ".join(str(error).split()))
            self._tell(False)
            raise
        finally:
            self._running = False
        for served in found:
            self._catalogue.replace(served)
        names = ", ".join(served.name for served in found)
        log.info("reloaded %s in %.1f s", names, time.monotonic() - began)
        self._tell(True)
        return found

    def _tell(self, switched: bool) -> None:
        for listener in self.listeners:
            listener(switched)

    def _opened(self) -> list[Served]:
        with warnings.catch_warnings():  # of logits that differ from those stored with the weights
            warnings.simplefilter("error", LogitsDiffer)
            try:
                found = self._open_all()
            except LogitsDiffer as warning:
                raise ValueError(str(warning)) from None
        for served in found:
            self._require_same_words(served)
            config = served.model.config
            prompt = hf.reference_prompt(config.vocab_size, config.context)
            if not numpy.isfinite(logits_of(served.model)(prompt)).all():
                raise ValueError(f"{served.path}: logits that are not finite, finite are needed")
        return found

    def _require_same_words(self, new: Served) -> None:
        """Clients send ids, and keep what they counted: a name stays with its vocabulary."""
        old = self._catalogue.find(new.name)
        if new.kind != old.kind:
            raise ValueError(f"reload: {new.path} is a {new.kind}, a {old.kind} is needed")
        try:
            require_same_vocabulary(new.tokenizer, old.tokenizer)
        except ValueError:
            raise ValueError(
                f"reload: {new.path} has other tokens than the model that serves as {new.name}, "
                "the same are needed; another name, or a server that begins anew"
            ) from None

    async def watch(self, interval: float = INTERVAL) -> None:
        """Reload whenever the files have changed and then stayed the same for an interval."""
        known = before = await asyncio.to_thread(self._stamp)
        while True:
            await asyncio.sleep(interval)
            now = await asyncio.to_thread(self._stamp)
            if now == before and now != known and not self._running:
                known = now
                with suppress(Exception):  # whatever a broken file does; the log has it
                    await self.reload()
            before = now

    def _stamp(self) -> Stamp:
        """The state of all files; one that is gone or going is left out."""
        found = []
        for path in self._paths:
            files = [path]
            with suppress(NotADirectoryError, FileNotFoundError):
                files = [*path.iterdir()]
            for file in files:
                with suppress(FileNotFoundError):
                    stat = file.stat()
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

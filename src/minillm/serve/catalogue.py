"""The models that are served, by name."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from starlette.requests import Request

from minillm.generation import Engine
from minillm.generation.budget import Budget
from minillm.generation.conversation import turn_ends
from minillm.generation.prefixes import fingerprint
from minillm.serve.errors import ApiError
from minillm.serve.settings import Settings
from minillm.serve.template import Template
from minillm.serve.worker import Worker
from minillm.tokenizers import Tokenizer
from minillm.words import meant


@dataclass(eq=False)
class Served:
    """A model under a name: what runs it, and what requests need to know about it."""

    name: str
    path: str
    model: Any
    tokenizer: Tokenizer
    engine: Engine | None  # None for an encoder, which writes nothing
    context: int | None
    adapter: str | None = None
    draft: tuple[Any, Tokenizer] | None = None  # a smaller model that guesses ahead
    embedder: Any = None  # models.embedding.Embedder
    classifier: Any = None  # tasks.heads.Ready
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def kind(self) -> str:
        """ "decoder", "encoder" or "encoder-decoder"."""
        return str(self.model.config.kind)

    @cached_property
    def fingerprint(self) -> str:
        """For which weights a seed gives the same text."""
        return f"fp_{fingerprint(self.model)[:16]}"

    def prepare(self) -> None:
        """Find out what takes a while, so that no request waits for it."""
        assert self.fingerprint

    @cached_property
    def template_hash(self) -> str:
        return hashlib.sha256((self.tokenizer.chat_template or "").encode("utf-8")).hexdigest()

    @cached_property
    def template(self) -> Template:
        """What its chat template can write."""
        return Template(self.tokenizer)

    @cached_property
    def turn_ends(self) -> tuple[int, ...]:
        """Ids that end an answer; ValueError for a template that cannot write one."""
        return tuple(sorted(turn_ends(self.tokenizer)))

    def writing(self) -> Engine:
        """The engine that writes; ApiError for an encoder."""
        if self.engine is None:
            raise ApiError(
                400,
                f"model: {self.name} is an encoder, which writes no text, a decoder is needed",
                param="model",
                code="model_not_supported",
            )
        return self.engine


def serve_model(
    name: str,
    path: str,
    model: Any,
    tokenizer: Tokenizer,
    settings: Settings,
    budget: Budget | None = None,
    adapter: str | None = None,
) -> Served:
    """A model with an engine of its own, which shares a `budget` with others."""
    context = model.config.context
    if settings.max_context is not None:
        if context is not None and settings.max_context > context:
            raise ValueError(
                f"max-context: {settings.max_context:,}, at most {context:,} (that of {path}) is "
                "needed"
            )
        context = settings.max_context
    engine = None
    if model.config.kind != "encoder":
        engine = Engine(
            model,
            tokenizer,
            max_batch=settings.max_concurrency,
            prefix_bytes=settings.prefix_bytes,
            context=context,
            budget=budget,
        )
    return Served(name, path, model, tokenizer, engine, context, adapter)


class Catalogue:
    """Models by name, and the worker that runs them."""

    def __init__(self, budget: Budget | None = None) -> None:
        """`budget` is what the engines share."""
        self.worker, self.budget = Worker(), budget
        self._served: dict[str, Served] = {}

    def add(self, served: Served) -> None:
        """Serve a model; ValueError for a name that another one has."""
        self.require_free([served.name])
        self._served[served.name] = served

    def require_free(self, names: Sequence[str]) -> None:
        """ValueError for names of which one stands twice, or is that of a model."""
        known = set(self._served)
        for name in names:
            if name in known:
                raise ValueError(f"serve: two models named {name}, names of their own are needed")
            known.add(name)

    def replace(self, served: Served) -> None:
        """From now on this one answers to its name; requests that run go on with the old one."""
        self._served[served.name] = served

    def prepare(self) -> None:
        """Find out of every model what takes a while."""
        for served in self.all():
            served.prepare()

    def all(self) -> list[Served]:
        return list(self._served.values())

    def find(self, name: str | None) -> Served:
        """The model of a name, or the only one where none is given; ApiError 404 or 400."""
        names = list(self._served)
        if name is None:
            if len(names) == 1:
                return self._served[names[0]]
            raise ApiError(
                400, f"model: none given, one of {', '.join(names)} is needed", param="model"
            )
        if name not in self._served:
            raise ApiError(
                404,
                f"model: {name[:100]!r} is not served here{meant(name, names)}",
                param="model",
                code="model_not_found",
            )
        return self._served[name]


def served_of(request: Request, name: str | None) -> Served:
    """The model that a request is about, noted for the log; ApiError 404 or 400."""
    served: Served = request.app.state.catalogue.find(name)
    request.state.model = served.name
    return served

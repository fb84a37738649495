"""What chat and completions may ask for: their common fields, and the options these become."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from minillm.generation import Options
from minillm.serve.catalogue import Served
from minillm.serve.errors import ApiError, from_options
from minillm.serve.fields import Choice, Flag, Kind, Number, Object, Several, Text, Whole

MOST_TOKENS = 1 << 31
MOST_TEXTS = 128  # of one request
MOST_LOGPROBS = 20
FIELDS: dict[str, Kind] = {
    "model": Text(1),
    "max_tokens": Whole(0, MOST_TOKENS),
    "temperature": Number(0, 2),
    "top_p": Number(0, 1),
    "top_k": Whole(0, MOST_TOKENS),
    "min_p": Number(0, 1),
    "typical": Number(0, 1),
    "repetition_penalty": Number(0, 100),
    "frequency_penalty": Number(-2, 2),
    "presence_penalty": Number(-2, 2),
    "stop": Several(Text(1), 0, 64, alone=True),
    "seed": Whole(0, (1 << 63) - 1),
    "n": Whole(1, MOST_TEXTS),
    "regex": Text(1, 4096),
    "choices": Several(Text(1)),
    "grammar": Text(1, 1 << 16),
    "overflow": Choice(("error", "truncate", "slide")),
    "stream": Flag(),
    "stream_options": Object({"include_usage": Flag()}),
    "user": Text(),
}
OPTIONS = ("temperature", "top_p", "top_k", "min_p", "typical", "repetition_penalty",
           "frequency_penalty", "presence_penalty", "stop", "seed", "n", "regex", "choices",
           "grammar", "overflow")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Job:
    """What a request asks to be written: one or several prompts with the same options."""

    served: Served
    prompts: Sequence[str | Sequence[int]]
    options: Options
    names: dict[str, str]  # of fields, by options: for errors
    scope: tuple[str, ...]  # within which prompts are shared
    stream: bool
    include_usage: bool


def options_of(body: dict[str, Any], names: dict[str, str], **more: Any) -> Options:
    """The options of a request, a seed drawn where it has none. ApiError for wrong ones."""
    given = {name: body[name] for name in OPTIONS if name in body}
    try:
        options = Options.of(**given | more)
    except (ValueError, TypeError) as error:
        raise from_options(error, names) from None
    if "seed" in given or options.sampler.greedy:
        return options
    return dataclasses.replace(options, seed=secrets.randbelow(1 << 32))


def names_of(form: Object, **more: str) -> dict[str, str]:
    """Which field of a form gives an option."""
    return {name: name for name in form.fields} | more


def streaming(body: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a request streams, and whether it wants the usage in the stream."""
    stream, options = body.get("stream", False), body.get("stream_options")
    if options is not None and not stream:
        raise ApiError(
            400, "stream_options: given without stream, stream true is needed",
            param="stream_options",
        )  # fmt: skip
    return stream, bool(options and options.get("include_usage", False))


def scope_of(request: Request, body: dict[str, Any], template: str = "") -> tuple[str, ...]:
    """Requests of the same scope may share what was read of prompts."""
    key = getattr(request.state, "key", b"")
    shared = request.app.state.settings.share_prefixes
    return "" if shared else key.hex(), body.get("user", ""), template


def drafted(served: Served, options: Options) -> Options:
    """With the draft of the model, where it changes nothing that is asked for."""
    told = options.logprobs is not None or options.best_of is not None
    if served.draft is None or told or options.overflow == "slide":
        return options
    return dataclasses.replace(options, draft=served.draft)

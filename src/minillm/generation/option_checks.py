"""What is wrong with Options: kinds, values, and options that cannot be followed together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import chain
from numbers import Integral, Real
from typing import Any

from minillm.generation.compact_cache import DTYPES

OVERFLOWS = ("error", "truncate", "slide")
CONSTRAINTS = ("json_schema", "regex", "choices", "grammar", "calls")
MOST_LOGPROBS = 1000
MOST_LOOKUP = 64  # each place of the text is kept under so many keys
AHEAD = 4  # tokens of a draft where nothing is asked for
LEAST = {"max_tokens": 0, "seed": 0, "n": 1, "best_of": 1, "beams": 1, "lookup": 0, "ahead": 1,
         "logprobs": 0}  # fmt: skip
KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "a text"),
    "bool": (bool, "true or false"),
}


def flag(name: str) -> str:
    """The name as the command line spells it."""
    return name.replace("_", "-")


def of_their_kinds(options: Any) -> dict[str, Any]:
    """The values, numbers of NumPy as Python's and sequences as tuples.

    TypeError for a value of a kind that its name cannot have.
    """
    found: dict[str, Any] = {}
    for part in fields(options):
        value, declared = getattr(options, part.name), str(part.type)
        if declared != "Any" and not (value is None and declared.endswith("None")):
            if declared.startswith("tuple"):
                value = _sequence(part.name, value, "int" if part.name == "stop_ids" else "str")
            else:
                kind, needed = KINDS[declared.removesuffix(" | None")]
                if not _is(value, kind):
                    raise TypeError(f"{flag(part.name)}: {value!r}, {needed} is needed")
                value = _plain(value, kind)
        found[part.name] = value
    return found


def _sequence(name: str, value: Any, declared: str) -> tuple[Any, ...]:
    if name == "stop" and isinstance(value, str):
        return (value,)
    kind, known = KINDS[declared][0], isinstance(value, (list, tuple, set, frozenset))
    if not known or not all(_is(part, kind) for part in value):
        parts = "ids" if declared == "int" else "texts"
        raise TypeError(f"{flag(name)}: {value!r}, a sequence of {parts} is needed")
    return tuple(_plain(part, kind) for part in value)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _plain(value: Any, kind: type) -> Any:
    if kind is Integral:
        return int(value)
    return float(value) if kind is Real and not isinstance(value, int) else value


def check_values(o: Any) -> None:
    """ValueError for a value that is impossible by itself."""
    for name, least in LEAST.items():
        value = getattr(o, name)
        if value is not None and value < least:
            raise ValueError(f"{flag(name)}: {value}, {least} or more is needed")
    for name, known in (("overflow", OVERFLOWS), ("cache_dtype", DTYPES)):
        if getattr(o, name) not in known:
            raise ValueError(
                f"{flag(name)}: {getattr(o, name)!r}, one of {', '.join(known)} is needed"
            )
    if not math.isfinite(o.length_penalty):
        raise ValueError(f"length-penalty: {o.length_penalty}, a finite number is needed")
    if not 0 <= o.contrastive <= 1:
        raise ValueError(f"contrastive: {o.contrastive}, 0 <= alpha <= 1 is needed")
    if o.lookup > MOST_LOOKUP:
        raise ValueError(f"lookup: {o.lookup}, 0 to {MOST_LOOKUP} is needed")
    if o.logprobs is not None and o.logprobs > MOST_LOGPROBS:
        raise ValueError(f"logprobs: {o.logprobs}, 0 to {MOST_LOGPROBS} is needed")
    if "" in o.stop:
        raise ValueError("stop: an empty string, at least 1 character is needed")
    if o.choices is not None and not o.choices:
        raise ValueError("choices: none are given, at least 1 is needed")
    _check_schema(o.json_schema)
    assert o.sampler is not None  # it has checked its own


def _check_schema(schema: Any) -> None:
    """A JSON schema is an object or a bool, or the text of one."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"json-schema: not valid JSON ({error})") from None
    if schema is not None and not isinstance(schema, (Mapping, bool)):
        raise TypeError(f"json-schema: {type(schema).__name__}, an object is needed")


def check_together(o: Any) -> None:
    """ValueError for options that cannot all be followed."""
    for fact, needed in chain(_ways(o), _numbers_of_texts(o), _extras(o)):
        raise ValueError(f"{fact}, {needed} is needed")


def _both(one: str, other: str) -> str:
    return f"{one} and {other}: they contradict each other"


def _ways(o: Any) -> Iterator[tuple[str, str]]:
    """Beams, contrastive search and speculation exclude each other and most of sampling."""
    ways = [("beams", o.beams > 1), ("contrastive", o.contrastive > 0),
            ("draft", o.draft is not None), ("lookup", o.lookup > 0)]  # fmt: skip
    used = [name for name, is_used in ways if is_used]
    if len(used) > 1:
        yield _both(used[0], used[1]), "one of them"
    if not used:
        return
    way = used[0]
    if way != "beams" and (o.logprobs is not None or o.best_of is not None):
        yield _both(way, "logprobs" if o.best_of is None else "best-of"), "one of them"
    if o.overflow == "slide":
        yield _both(way, "overflow slide"), "overflow error or truncate"
    if way in ("draft", "lookup"):
        return
    if not o.sampler.greedy:
        yield _both(way, f"temperature {o.temperature}"), "temperature 0"
    if o.sampler.needs_seen:
        yield _both(way, "penalties of tokens"), "one of them"
    if o.top_p < 1 or o.min_p or o.typical < 1 or (way == "beams" and o.top_k):
        filters = f"{'top-k, ' * (way == 'beams')}top-p, min-p or typical"
        yield _both(way, filters), "one of them"
    if way == "contrastive" and o.top_k < 2:
        yield f"contrastive: among the top-k {o.top_k}", "top-k 2 or more"
    if way == "contrastive" and o.n > 1:
        yield _both("contrastive", f"n {o.n}"), "one of them"
    if way == "contrastive" and o.constraint:
        yield _both("contrastive", flag(o.constraint)), "one of them"


def _numbers_of_texts(o: Any) -> Iterator[tuple[str, str]]:
    if o.beams > 1:
        if o.n > o.beams:
            yield _both(f"n {o.n}", f"beams {o.beams}"), "n up to the number of beams"
        if o.best_of is not None:
            yield _both("best-of", "beams"), "one of them"
        return
    if o.length_penalty != 1:
        yield f"length-penalty: {o.length_penalty} without beams", "beams above 1"
    if o.best_of is not None and o.best_of < o.n:
        yield _both(f"best-of {o.best_of}", f"n {o.n}"), "best-of n or more"
    if o.rows > 1 and o.sampler.greedy:
        many = f"n {o.n}" if o.best_of is None else f"best-of {o.best_of}"
        yield _both(many, f"temperature {o.temperature}"), "a higher temperature, or beams,"


def _extras(o: Any) -> Iterator[tuple[str, str]]:
    given = [flag(name) for name in CONSTRAINTS if getattr(o, name) is not None]
    if len(given) > 1:
        yield _both(given[0], given[1]), "one of them"
    if given and o.stop:  # which may come where the text is not whole
        yield _both("stop", given[0]), "one of them"
    if o.ahead != AHEAD and o.draft is None and not o.lookup:
        yield f"ahead: {o.ahead} without draft or lookup", "one of these"
    if not o.use_cache and o.cache_dtype != "float32":
        yield f"cache-dtype: {o.cache_dtype} without a cache", "a cache"

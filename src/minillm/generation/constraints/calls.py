"""Calls of tools inside a text, as a template writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minillm.generation.constraints import code_points
from minillm.generation.constraints.constraint import Constraint, compiled
from minillm.generation.constraints.json_schema import schema_node
from minillm.generation.constraints.language import (
    EMPTY,
    Choice,
    Node,
    Repeat,
    Rule,
    characters,
    optional,
    series,
    text,
)
from minillm.tokenizers import Tokenizer

MOST_CALLS = 16  # in one text


@dataclass(frozen=True)
class Form:
    """How calls are written: `head` NAME `middle` ARGUMENTS, between two of them `between`, after
    the last `tail`; `between` is None where there is one call only. `marker` is what `head` begins
    with, and no other text holds."""

    head: str
    middle: str
    between: str | None
    tail: str
    marker: str


@dataclass(frozen=True)
class Calls:
    """What may be called: JSON schemas of arguments by name.

    free     a text may stand before the calls, or in their place
    several  whether there may be more than one
    """

    form: Form
    tools: Mapping[str, Any]
    free: bool = True
    several: bool = True


def calls(given: Calls, tokenizer: Tokenizer) -> Constraint:
    """The text holds calls whose arguments the schemas accept, and nothing that begins like one.

    Without tools it is a text without a call. ValueError for schemas as in `json_schema`.
    """
    form = given.form
    source = json.dumps([vars(form), dict(given.tools), given.free, given.several])
    return compiled("calls", source, tokenizer, lambda: calls_node(given))


def calls_node(given: Calls) -> Node:
    form = given.form
    before = without(form.marker) if given.free or not given.tools else EMPTY
    if not given.tools:
        return before
    one = Choice(
        series((text(name + form.middle), _arguments(name, schema)))
        for name, schema in given.tools.items()
    )
    parts: list[Node] = [text(form.head), one]
    if given.several and form.between is not None:
        parts.append(Repeat(series((text(form.between), one)), 0, MOST_CALLS - 1))
    whole = series([*parts, text(form.tail)])
    return series((before, optional(whole))) if given.free else whole


def _arguments(name: str, schema: Any) -> Node:
    try:
        return schema_node(schema)
    except ValueError as error:
        fact = str(error).removeprefix("json-schema: ")
        raise ValueError(f"calls: the parameters of {name}: {fact}") from None


def without(marker: str) -> Node:
    """Any text that does not hold `marker`: the states of a search for it, its end left out."""
    states = [Rule(f"{marker[:count]!r} of {marker!r}") for count in range(len(marker))]
    for count, state in enumerate(states):
        options: list[Node] = [EMPTY]
        others = code_points.but(code_points.ANY, code_points.of(marker))
        options.append(series((characters(others), states[0])))
        for letter in sorted(set(marker)):
            reached = _reached(marker, marker[:count] + letter)
            if reached < len(marker):
                options.append(series((text(letter), states[reached])))
        state.body = Choice(options)
    return states[0]


def _reached(marker: str, seen: str) -> int:
    """How many characters of the marker stand at the end of what was seen."""
    return next(count for count in range(len(seen), -1, -1) if seen.endswith(marker[:count]))

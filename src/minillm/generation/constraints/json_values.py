"""Strings, numbers, arrays and objects with the keywords that speak of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from minillm.generation.constraints import json_numbers, json_text
from minillm.generation.constraints.costs import NEVER, lengths, shortest
from minillm.generation.constraints.json_formats import FORMATS
from minillm.generation.constraints.json_merging import Schema, refuse
from minillm.generation.constraints.language import NOTHING, Literal, Node, nodes
from minillm.generation.constraints.regex import pattern_node


def bounds(schema: Schema, least: str, most: str, place: str) -> tuple[int, int | None]:
    low, high = int(schema.get(least, 0)), schema.get(most)
    if high is not None and low > high:
        raise refuse(f"{place}/{least}", f"{low} is more than {most} {int(high)}")
    return low, None if high is None else int(high)


def string(schema: Schema, place: str) -> Node:
    low, high = bounds(schema, "minLength", "maxLength", place)
    words = [word for word in ("pattern", "format") if word in schema]
    if not words:
        return json_text.string(low, high)
    if len(words) == 2:
        raise refuse(f"{place}/format", "together with pattern, one of them is supported")
    word, given = words[0], schema[words[0]]
    try:
        found = pattern_node(FORMATS[given] if word == "format" else given, word == "pattern")
    except ValueError as error:
        raise refuse(f"{place}/{word}", str(error)) from None
    if shortest(nodes(found))[found] == NEVER:
        raise refuse(f"{place}/{word}", f"{given!r} matches nothing")
    fewest, most = lengths(found)
    if most < low or (high is not None and fewest > high):
        raise refuse(
            f"{place}/{word}",
            f"its texts have {fewest} to {most} characters, minLength and maxLength allow {low} to "
            f"{high}",
        )
    if fewest < low or (high is not None and most > high):
        raise refuse(
            f"{place}/{'minLength' if fewest < low else 'maxLength'}",
            f"together with a {word} of {fewest} to {most} characters, one of the right length is "
            "needed",
        )
    return json_text.quoted(found)


def limits(schema: Schema, place: str) -> tuple[Decimal | None, Decimal | None, bool, bool]:
    """The lowest and highest number, and whether they are excluded."""
    low, high = (_exact(schema.get(word)) for word in ("minimum", "maximum"))
    over, under = (_exact(schema.get(f"exclusive{word}")) for word in ("Minimum", "Maximum"))
    above = over is not None and (low is None or over >= low)
    below = under is not None and (high is None or under <= high)
    low, high = over if above else low, under if below else high
    if low is not None and high is not None and (low > high or (low == high and (above or below))):
        raise refuse(place, f"no number is between the bounds {low} and {high}")
    return low, high, above, below


def _exact(bound: Any) -> Decimal | None:
    return None if bound is None else Decimal(repr(bound))


def integer(schema: Schema, place: str) -> Node:
    low, high, above, below = limits(schema, place)
    least = None if low is None else math.floor(low) + 1 if above else math.ceil(low)
    most = None if high is None else math.ceil(high) - 1 if below else math.floor(high)
    multiple = schema.get("multipleOf", 1)
    if int(multiple) != multiple:
        raise refuse(f"{place}/multipleOf", f"{multiple!r}, an integer is supported")
    if least is not None and most is not None and least > most:
        raise refuse(place, f"no integer is between the bounds {low} and {high}")
    try:
        return json_numbers.integers(least, most, int(multiple))
    except ValueError as error:
        raise refuse(f"{place}/multipleOf", str(error)) from None


def number(schema: Schema, place: str) -> Node:
    if "multipleOf" in schema:
        return integer(schema, place)
    low, high, above, below = limits(schema, place)
    if low is None and high is None:
        return json_text.number()
    try:
        return json_numbers.decimals(low, high, above, below)
    except ValueError as error:
        raise refuse(place, f"bounds of {error}") from None


def array(schema: Schema, prefix: Sequence[Node], rest: Node, place: str) -> Node:
    low, high = bounds(schema, "minItems", "maxItems", place)
    if schema.get("uniqueItems") and (high is None or high > 1):
        raise refuse(f"{place}/uniqueItems", "not supported, false or maxItems 1 is")
    return json_text.array(prefix, rest, low, high)


def object_(
    schema: Schema,
    members: dict[str, Node],
    others: Node,
    required: Sequence[str],
    listed: Sequence[str],
    place: str,
) -> Node:
    """`members` by name in their order; `others` are any more, named unlike those and `listed`."""
    low, high = bounds(schema, "minProperties", "maxProperties", place)
    if high is not None and len(required) > high:
        raise refuse(f"{place}/maxProperties", f"{high} is less than the {len(required)} required")
    more = None if high is None else high - len(required)
    if more == 0:
        members, others = {name: members[name] for name in members if name in required}, NOTHING
    fixed = len(members) == len(required)
    many = high is not None and (len(members) > high or others is not NOTHING)
    if many and members and not fixed:
        raise refuse(f"{place}/maxProperties", "together with optional members is not supported")
    lacking = max(0, low - len(required))
    if lacking > (0 if others is NOTHING or not fixed else 1):
        raise refuse(
            f"{place}/minProperties",
            f"{low} with {len(required)} required members is not supported; name them in required",
        )
    listed_first = [(_member(name, node), name in required) for name, node in members.items()]
    names = list(dict.fromkeys([*members, *listed]))
    extra = others
    if others is not NOTHING:
        extra = json_text.member(json_text.key_but(names), others)
    return json_text.object_(listed_first, extra, lacking, more if others is not NOTHING else 0)


def _member(name: str, content: Node) -> Node:
    return json_text.member(Literal(json_text.value(name)), content)

"""Whether two schemas have no value in common, as far as that is easy to see: oneOf needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minillm.generation.constraints.json_merging import (
    TYPES,
    Schema,
    common_types,
    same,
    types_of,
)

DEEPEST = 8


def exclusive(one: Schema, other: Schema, plain: Callable[[Any], Schema], deep: int = 0) -> bool:
    """True only if no value is valid under both. `plain` makes a part of a schema plain."""
    left, right = possible_types(one), possible_types(other)
    types = common_types(left, right)
    if not types:
        return True
    if "enum" in one and "enum" in other:
        return not any(same(a, b) for a in one["enum"] for b in other["enum"])
    return types == ["object"] and deep < DEEPEST and _members_differ(one, other, plain, deep)


def _members_differ(one: Schema, other: Schema, plain: Callable[[Any], Schema], deep: int) -> bool:
    for a, b in ((one, other), (other, one)):
        for name in a.get("required", []):
            listed, rest = b.get("properties", {}), b.get("additionalProperties", True)
            theirs = listed.get(name, rest)
            if theirs is False:
                return True
            mine = a.get("properties", {}).get(name, a.get("additionalProperties", True))
            if name in b.get("required", []) and exclusive(
                plain(mine), plain(theirs), plain, deep + 1
            ):
                return True
    return False


def possible_types(schema: Schema) -> list[str]:
    """The types a value can have."""
    types = types_of(schema["type"]) if "type" in schema else [t for t in TYPES if t != "integer"]
    if "enum" in schema:
        kinds = [kind_of(value) for value in schema["enum"]]
        types = common_types(types, list(dict.fromkeys(kinds)))
    return types


def kind_of(value: Any) -> str:
    """The narrowest type of a value; 1.0 is an integer."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    kinds = {float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]

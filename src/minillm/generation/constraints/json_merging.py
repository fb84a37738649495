"""Schemas made plain: references followed, allOf joined, each keyword checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from minillm.generation.constraints.json_formats import FORMATS

Schema = dict[str, Any]

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
ANNOTATIONS = {
    "$comment", "$schema", "title", "description", "default", "examples", "deprecated", "readOnly",
    "writeOnly", "discriminator", "contentEncoding", "contentMediaType", "contentSchema", "$defs",
    "definitions",
}  # fmt: skip
KEYWORDS = {  # keyword: the type it speaks of
    "properties": "object", "required": "object", "additionalProperties": "object",
    "minProperties": "object", "maxProperties": "object", "prefixItems": "array", "items": "array",
    "minItems": "array", "maxItems": "array", "uniqueItems": "array", "minLength": "string",
    "maxLength": "string", "pattern": "string", "format": "string", "minimum": "number",
    "maximum": "number", "exclusiveMinimum": "number", "exclusiveMaximum": "number",
    "multipleOf": "number",
}  # fmt: skip
GENERAL = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}
_COUNTS = [word for word in KEYWORDS if word[:3] in ("min", "max") and word[3].isupper()]
_LARGER = {"minProperties", "minItems", "minLength", "minimum", "exclusiveMinimum"}
_SMALLER = {"maxProperties", "maxItems", "maxLength", "maximum", "exclusiveMaximum"}


def refuse(place: str, fact: str) -> ValueError:
    return ValueError(f"json-schema: {place}: {fact}")


def check(schema: Any, place: str) -> Schema:
    """One schema with its values checked, annotations left out; False is {"enum": []}.

    ValueError naming the place for what restricts values and is not supported.
    """
    if schema is True:
        return {}
    if schema is False:
        return {"enum": []}
    if not isinstance(schema, dict):
        raise refuse(place, f"{schema!r}, an object or true or false is needed")
    found = {}
    for word, value in schema.items():
        if word in ANNOTATIONS or (word == "$id" and place == "#"):
            continue
        if word not in KEYWORDS and word not in GENERAL:
            raise refuse(
                f"{place}/{word}", "not supported, a schema without this keyword is needed"
            )
        found[word] = value
        _check_value(word, value, f"{place}/{word}")
    return found


def _check_value(word: str, value: Any, place: str) -> None:
    def need(right: bool, needed: str) -> None:
        if not right:
            raise refuse(place, f"{value!r}, {needed} is needed")

    if word == "type":
        listed = value if isinstance(value, list) else [value]
        need(bool(listed) and all(one in TYPES for one in listed), f"one or some of {TYPES}")
    elif word in _COUNTS:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        need(whole and not isinstance(value, bool) and value >= 0, "an integer of 0 or more")
    elif KEYWORDS.get(word) == "number":
        finite = isinstance(value, int | float) and not isinstance(value, bool)
        need(finite and math.isfinite(value), "a finite number")
        need(word != "multipleOf" or value > 0, "a number above 0")
    elif word in ("enum", "anyOf", "oneOf", "allOf", "prefixItems", "required"):
        need(isinstance(value, list), "a list")
        need(bool(value) or word in ("enum", "required"), "a list that is not empty")
        need(word != "required" or all(isinstance(one, str) for one in value), "a list of names")
        if word == "enum" and not value:
            raise refuse(place, "the list is empty, at least one value is needed")
    elif word == "properties":
        need(isinstance(value, dict), "an object")
    elif word in ("pattern", "format", "$ref"):
        need(isinstance(value, str), "a string")
        if word == "format" and value not in FORMATS:
            raise refuse(place, f"{value!r} is not supported, one of {', '.join(FORMATS)} is")
    elif word == "uniqueItems":
        need(isinstance(value, bool), "true or false")


def merged(first: Schema, second: Schema, place: str) -> Schema:
    """What is valid under both. ValueError where that is more than this can say."""
    if not first or not second:
        return first or second
    both = {**first, **second}
    for word in first.keys() & second.keys() - {"properties", "prefixItems", "items"}:
        if first[word] != second[word]:
            both[word] = _joined(word, first[word], second[word], f"{place}/{word}")
    _merge_members(first, second, both)
    _merge_elements(first, second, both)
    return both


def _joined(word: str, one: Any, other: Any, place: str) -> Any:
    if word in _LARGER:
        return max(one, other)
    if word in _SMALLER:
        return min(one, other)
    if word == "type":
        return common_types(types_of(one), types_of(other))
    if word == "enum":
        return [value for value in one if any(same(value, more) for more in other)]
    if word == "required":
        return list(dict.fromkeys([*one, *other]))
    if word == "additionalProperties":
        return {"allOf": [one, other]}
    if word == "uniqueItems":
        return one or other
    if word == "multipleOf" and isinstance(one, int) and isinstance(other, int):
        return math.lcm(one, other)
    if word in ("anyOf", "oneOf"):
        raise refuse(place, "two of them meet, and cannot be joined; at most one is supported")
    raise refuse(place, f"both {one!r} and {other!r}, one of them is supported")


def _merge_members(first: Schema, second: Schema, both: Schema) -> None:
    if "properties" not in both and "additionalProperties" not in both:
        return
    names = [*first.get("properties", {}), *second.get("properties", {})]
    sides = [(side.get("properties", {}), side.get("additionalProperties", True))
             for side in (first, second)]  # fmt: skip
    both["properties"] = {
        name: _all(*[listed.get(name, other) for listed, other in sides])
        for name in dict.fromkeys(names)
    }


def _merge_elements(first: Schema, second: Schema, both: Schema) -> None:
    if "prefixItems" not in both and "items" not in both:
        return
    sides = [(side.get("prefixItems", []), side.get("items", True)) for side in (first, second)]
    count = max(len(listed) for listed, _ in sides)
    both["prefixItems"] = [
        _all(*[listed[at] if at < len(listed) else rest for listed, rest in sides])
        for at in range(count)
    ]
    both["items"] = _all(*[rest for _, rest in sides])
    if not count:
        del both["prefixItems"]


def _all(one: Any, other: Any) -> Any:
    if one is True or other is True or one == other:
        return other if one is True else one
    return {"allOf": [one, other]}


def types_of(value: Any) -> list[str]:
    return list(value) if isinstance(value, list) else [value]


def common_types(first: list[str], second: list[str]) -> list[str]:
    wide = [{*types, *(["integer"] if "number" in types else [])} for types in (first, second)]
    found = [one for one in TYPES if one in wide[0] & wide[1]]
    return [one for one in found if one != "integer" or "number" not in found]


def same(one: Any, other: Any) -> bool:
    """Equality of JSON: true is not 1, but 1.0 is."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def resolve(root: Any, reference: str, place: str) -> Any:
    """What a $ref of the same document means. ValueError where nothing is there."""
    if not reference.startswith("#"):
        raise refuse(place, f"{reference!r}, a reference inside the schema (#/...) is needed")
    if reference != "#" and not reference.startswith("#/"):
        raise refuse(place, f"{reference!r}, a path (#/...) is needed, anchors are not supported")
    found = root
    for part in unquote(reference[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise refuse(place, f"nothing is at {reference!r}")
    return found


def plain(
    schema: Any, place: str, lookup: Callable[[str, str], Any], active: tuple[str, ...] = ()
) -> Schema:
    """`schema` without $ref, allOf and const. ValueError where a reference leads to itself."""
    found = check(schema, place)
    parts: list[tuple[Any, str, tuple[str, ...]]] = []
    if "$ref" in found:
        reference = found.pop("$ref")
        if reference in active:
            raise refuse(place, f"the reference {reference!r} leads to itself and to nothing else")
        parts.append((lookup(reference, f"{place}/$ref"), reference, (*active, reference)))
    for index, part in enumerate(found.pop("allOf", [])):
        parts.append((part, f"{place}/allOf/{index}", active))
    if "const" in found:
        constant = {"enum": [found.pop("const")]}
        found = merged(found, constant, place)
    for part, where, inside in parts:
        found = merged(found, plain(part, where, lookup, inside), place)
    return found

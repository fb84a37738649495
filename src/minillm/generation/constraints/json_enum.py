"""enum and const: listed values, those that the other keywords leave."""

from __future__ import annotations

import re
from typing import Any

from minillm.generation.constraints import json_text
from minillm.generation.constraints.json_exclusion import kind_of
from minillm.generation.constraints.json_merging import KEYWORDS, Schema, refuse, types_of
from minillm.generation.constraints.json_values import limits
from minillm.generation.constraints.language import NOTHING, Node, literals

_JUDGED = {"minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum",
           "exclusiveMaximum", "multipleOf"}  # fmt: skip


def enumerated(schema: Schema, place: str) -> Node:
    """The listed values that are valid; ValueError where a keyword beside them is not judged."""
    kept = [value for value in schema["enum"] if _is_valid(value, schema, place)]
    if not kept and schema["enum"]:
        raise refuse(f"{place}/enum", "none of the values is valid under the other keywords")
    try:
        return literals(map(json_text.value, kept)) if kept else NOTHING
    except ValueError as error:
        raise refuse(f"{place}/enum", f"{error}, values of JSON are needed") from None


def _is_valid(value: Any, schema: Schema, place: str) -> bool:
    kind = kind_of(value)
    if "type" in schema:
        types = types_of(schema["type"])
        if kind not in types and not (kind == "integer" and "number" in types):
            return False
    family = "number" if kind == "integer" else kind
    for word in schema:
        if KEYWORDS.get(word) == family and word not in _JUDGED:
            raise refuse(f"{place}/{word}", "together with enum or const is not supported")
    if family == "string":
        low, high = schema.get("minLength", 0), schema.get("maxLength", len(value))
        return low <= len(value) <= high and bool(re.search(schema.get("pattern", ""), value))
    if family == "number":
        least, most, above, below = limits(schema, place)
        inside = (least is None or value > least or (value == least and not above)) and (
            most is None or value < most or (value == most and not below)
        )
        return inside and ("multipleOf" not in schema or value % schema["multipleOf"] == 0)
    return True

"""JSON Schema (draft 2020-12, the part that people use) as a language."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from minillm.generation.constraints import json_values
from minillm.generation.constraints.constraint import Constraint, compiled
from minillm.generation.constraints.costs import NEVER, left_recursion, shortest
from minillm.generation.constraints.json_enum import enumerated
from minillm.generation.constraints.json_exclusion import exclusive
from minillm.generation.constraints.json_merging import (
    KEYWORDS,
    Schema,
    merged,
    plain,
    refuse,
    resolve,
    types_of,
)
from minillm.generation.constraints.json_text import anything
from minillm.generation.constraints.language import NOTHING, Choice, Node, Rule, literals, nodes
from minillm.tokenizers import Tokenizer


def json_schema(schema: dict[str, Any] | bool, tokenizer: Tokenizer) -> Constraint:
    """The text is JSON that is valid under `schema`.

    What is written is a part of what is valid: members in the order of `properties`, others only
    where `additionalProperties` is a schema or there are no `properties`; after a comma, a bracket
    or a brace at most one space, or a line break and 12 spaces, after a colon at most one space;
    numbers of 15 digits and exponents of two; values of the types that the keywords speak of where
    there is no `type`; no nesting deeper than about 60.
    ValueError, with the place, for a keyword that is not supported (`not`, `if`, `contains`,
    `patternProperties`, ...), for a combination that cannot be guaranteed, and for a schema without
    any value. Annotations (`title`, `default`, ...) are passed over.
    """
    try:
        source = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"json-schema: {error}, a value of JSON is needed") from None
    return compiled("json-schema", source, tokenizer, lambda: schema_node(schema))


def schema_node(schema: Any) -> Node:
    try:
        root = _Reader(schema).node(schema, "#")
        ordered = nodes(root)
    except RecursionError:
        raise ValueError("json-schema: #: nested too deeply, a simpler schema is needed") from None
    itself = left_recursion(ordered)
    if itself is not None:
        raise refuse(itself.name, "it refers to itself and to nothing else")
    least = shortest(ordered)
    if least[root] == NEVER:
        dead = next(node for node in ordered if isinstance(node, Rule) and least[node] == NEVER)
        raise refuse(dead.name, "no value is possible, its keywords contradict each other")
    return root


class _Reader:
    """Makes nodes of schemas, the same for the same."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._rules: dict[str, Rule] = {}
        self.any = anything()
        self._by_type: dict[str, Callable[[Schema, str], Node]] = {
            "object": self._object,
            "array": self._array,
            "string": json_values.string,
            "number": json_values.number,
            "integer": json_values.integer,
            "boolean": lambda schema, place: literals((b"true", b"false")),
            "null": lambda schema, place: literals((b"null",)),
        }

    def plain(self, schema: Any, place: str = "#") -> Schema:
        return plain(schema, place, lambda path, where: resolve(self._root, path, where))

    def node(self, schema: Any, place: str) -> Node:
        return self._rule(self.plain(schema, place), place)

    def _rule(self, schema: Schema, place: str) -> Node:
        if not schema:
            return self.any
        key = json.dumps(schema)
        if key not in self._rules:
            rule = self._rules[key] = Rule(place)
            rule.body = self._body(schema, place)
        return self._rules[key]

    def _body(self, schema: Schema, place: str) -> Node:
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._branches(schema, word, f"{place}/{word}")
        if "enum" in schema:
            return enumerated(schema, place)
        return Choice(self._by_type[kind](schema, place) for kind in written_types(schema))

    def _branches(self, schema: Schema, word: str, place: str) -> Node:
        rest = {key: value for key, value in schema.items() if key != word}
        places = [f"{place}/{index}" for index in range(len(schema[word]))]
        branches = [
            merged(rest, self.plain(branch, where), where)
            for branch, where in zip(schema[word], places)
        ]
        for index, branch in enumerate(branches if word == "oneOf" else ()):
            for other in range(index):
                if not exclusive(branch, branches[other], self.plain):
                    raise refuse(
                        place,
                        f"a value may be valid under both {other} and {index}; different types, "
                        "constants or forbidden members are needed, or anyOf",
                    )
        return Choice(self._rule(branch, where) for branch, where in zip(branches, places))

    def _array(self, schema: Schema, place: str) -> Node:
        prefix = [
            self.node(part, f"{place}/prefixItems/{index}")
            for index, part in enumerate(schema.get("prefixItems", []))
        ]
        items = schema.get("items", True)
        rest = NOTHING if items is False else self.node(items, f"{place}/items")
        return json_values.array(schema, prefix, rest, place)

    def _object(self, schema: Schema, place: str) -> Node:
        listed, extra = schema.get("properties", {}), schema.get("additionalProperties", True)
        required = list(dict.fromkeys(schema.get("required", [])))
        for name in (*listed, *required):
            if any("\ud800" <= one <= "\udfff" for one in name):
                raise refuse(f"{place}/properties", f"{name!r} holds half a surrogate pair")
        members: dict[str, Node] = {}
        for name, part in listed.items():
            if part is not False or name in required:
                members[name] = self.node(part, f"{place}/properties/{pointer(name)}")
        for name in required:
            if name not in listed and extra is False:
                raise refuse(f"{place}/required", f"{name!r} is forbidden by additionalProperties")
            if name not in listed:
                members[name] = self.node(extra, f"{place}/additionalProperties")
            elif listed[name] is False:
                raise refuse(f"{place}/required", f"{name!r} is forbidden by properties")
        free = isinstance(extra, dict) or (extra is True and not members)
        others = self.node(extra, f"{place}/additionalProperties") if free else NOTHING
        return json_values.object_(schema, members, others, required, [*listed], place)


def pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def written_types(schema: Schema) -> list[str]:
    """The types of the values that are written."""
    if "type" in schema:
        return types_of(schema["type"])
    return list(dict.fromkeys(kind for word, kind in KEYWORDS.items() if word in schema))

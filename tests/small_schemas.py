"""Random JSON schemas of what is supported, and the check that a text is valid."""

import json
import math

from minillm.generation.constraints import json_schema
from small_constraints import BIASES, bias, least, write

NAMES = ["n", "s", "name", "na", "id", 'q"', "é", "a/b", "x~y", "\\", "names"]
VALUES = [
    None, True, False, 0, 1, -7, 1.5, 1e30, "", "red", "reddish", "green", 'q"', "é", "\n",
    "🙂", "\\", [], [1, "a"], {}, {"a": [True]},
]  # fmt: skip
PATTERNS = [
    "^[a-z]+$",
    "^a",
    "b$",
    "[0-9]{2}",
    'x"?\\\\?y',
    "^(ab|cd){1,3}$|^é+$",
    "^\\w{2,4}$",
    "",
]
FORMATS = ["date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "hostname", "uri"]


def random_schema(rng, depth=3, recursive=True):
    """A schema that has a value; `rng` is random.Random."""
    kinds = ["string", "integer", "number", "enum", "const", "simple", "types", "pattern", "format"]
    if depth:
        kinds += ["object", "array", "object", "array", "any_of", "one_of", "all_of", "map"]
    if recursive and depth < 3:
        kinds += ["ref"]
    return globals()[f"_{rng.choice(kinds)}"](rng, depth)


def _string(rng, depth):
    low = rng.choice([0, 0, 1, 3, 8])
    found = {"type": "string"}
    if rng.random() < 0.5:
        found["minLength"] = low
    if rng.random() < 0.5:
        found["maxLength"] = low + rng.choice([0, 1, 5])
    return found


def _pattern(rng, depth):
    return {"type": "string", "pattern": rng.choice(PATTERNS)}


def _format(rng, depth):
    return {"type": "string", "format": rng.choice(FORMATS)}


def _integer(rng, depth):
    low, high = sorted(rng.choice([-1000, -12, -1, 0, 3, 9, 10, 99, 250, 10**6]) for _ in "ab")
    found = {"type": "integer"}
    if rng.random() < 0.6:
        found["minimum"] = low
    if rng.random() < 0.6:
        found[rng.choice(["maximum", "exclusiveMaximum"])] = high + 8
    if rng.random() < 0.3:
        found["multipleOf"] = rng.choice([1, 2, 3, 4, 7])
    return found


def _number(rng, depth):
    low = rng.choice([-1e6, -12.75, -1, -0.001, 0, 0.1, 3, 9.99, 1234.5])
    found = {"type": "number"}
    if rng.random() < 0.5:
        found[rng.choice(["minimum", "exclusiveMinimum"])] = low
    if rng.random() < 0.5:
        found[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.choice([0.001, 1, 2.5, 1e4])
    return found


def _enum(rng, depth):
    return {"enum": rng.sample(VALUES, rng.randint(1, 5))}


def _const(rng, depth):
    return {"const": rng.choice(VALUES), "title": "one"}


def _simple(rng, depth):
    return rng.choice([True, {}, {"type": "null"}, {"type": "boolean"}, {"minLength": 2}])


def _types(rng, depth):
    names = ["object", "array", "string", "integer", "number", "boolean", "null"]
    return {"type": rng.sample(names, 2), "maxLength": 3, "maxItems": 2}


def _object(rng, depth):
    names = rng.sample(NAMES, rng.randint(0, 4))
    found = {"type": "object"}
    found["properties"] = {name: random_schema(rng, depth - 1) for name in names}
    found["required"] = [name for name in names if rng.random() < 0.5]
    kind = rng.random()
    if kind < 0.4:
        found["additionalProperties"] = False
    elif kind < 0.6:
        found["additionalProperties"] = random_schema(rng, depth - 1)
        found["required"].append("more")
    return found


def _map(rng, depth):
    return {"additionalProperties": random_schema(rng, depth - 1), "maxProperties": 3}


def _array(rng, depth):
    low = rng.choice([0, 0, 1, 2])
    found = {"type": "array", "minItems": low, "maxItems": low + rng.choice([0, 1, 3])}
    if rng.random() < 0.7:
        found["items"] = random_schema(rng, depth - 1)
    if rng.random() < 0.3:
        found["prefixItems"] = [random_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    return found


def _any_of(rng, depth):
    found = {"anyOf": [random_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]}
    return found


def _one_of(rng, depth):
    kinds = rng.sample(["a", "b", "c"], 2)
    tagged = [
        {"type": "object", "properties": {"kind": {"const": kind}, "v": random_schema(rng, 0)},
         "required": ["kind", "v"]}
        for kind in kinds
    ]  # fmt: skip
    return {"oneOf": [*tagged, {"type": "null"}]}


def _all_of(rng, depth):
    extra = {"properties": {"id": {"type": "integer", "minimum": 0}}, "required": ["id"]}
    return {
        "type": "object",
        "allOf": [extra, {"properties": {"s": random_schema(rng, depth - 1)}}],
    }


def _ref(rng, depth):
    return {"$ref": rng.choice(["#/$defs/tree", "#/$defs/tree", "#/$defs/word"])}


DEFS = {
    "word": {"type": "string", "minLength": 1, "maxLength": 4},
    "tree": {
        "type": "object",
        "properties": {"v": {"$ref": "#/$defs/word"},
                       "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        "required": ["v"],
    },
}  # fmt: skip


def whole_schema(rng):
    found = random_schema(rng, 3, recursive=False)
    if isinstance(found, dict):
        found = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": DEFS, **found}
    return found


def finite(data):
    if isinstance(data, float):
        return math.isfinite(data)
    return (
        all(map(finite, data.values() if isinstance(data, dict) else data))
        if isinstance(data, list | dict)
        else True
    )


def refused(name):
    raise AssertionError(f"{name} in JSON")


def check_schemas(validator, rng, draws, tokenizer, count, extras=(0, 1, 5, 40)):
    """Write under `count` random schemas, tight and less tight; the number of texts, all valid."""
    likings = [bias(tokenizer, name) for name in BIASES]
    texts = 0
    for index in range(count):
        schema = whole_schema(rng)
        constraint = json_schema(schema, tokenizer)
        judge, needed = validator(schema), least(constraint)
        for extra in extras:
            liking = likings[(index + texts) % len(likings)]
            ids, state = write(constraint, tokenizer, needed + extra, draws, liking)
            text = tokenizer.decode(ids, errors="strict")
            data = json.loads(text, parse_constant=refused)
            judge.validate(data)
            assert state.complete and len(ids) <= needed + extra and finite(data), (schema, text)
            assert not any("\ud800" <= one <= "\udfff" for one in str(data))
            texts += 1
    return texts

"""Reading the parts of a tokenizer's JSON, with one clear line about what is wrong in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Document = dict[str, Any]


class Unsupported(ValueError):
    """What a tokenizer needs and Python alone does not do; the `tokenizers` library may."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is not supported without the library; install the extra hf, in the checkout: "
            "pip install '.[hf]'"
        )


def short(value: Any) -> str:
    """`value` as JSON of at most 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def an_object(value: Any, name: str) -> Document:
    """`value`, which must be a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {short(value)}, an object is needed")
    return value


def a_list(value: Any, name: str) -> list[Any]:
    """`value`, which must be a JSON array or null, as a list."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{name} is {short(value)}, a list is needed")
    return value


def a_string(value: Any, name: str) -> str:
    """`value`, which must be a JSON string."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {short(value)}, a string is needed")
    return value


def require(spec: Document, part: str, accepted: tuple[Any, ...], prefix: str = "") -> None:
    """ValueError unless a part has one of the accepted values; a missing part is None."""
    if spec.get(part) not in accepted:
        raise ValueError(f"{prefix}{part} {short(spec.get(part))} is not supported")


def require_known(spec: Document, known: set[str], prefix: str = "") -> None:
    """ValueError naming a part that is not among the known ones."""
    unknown = sorted(spec.keys() - known)
    if unknown:
        raise ValueError(f"{prefix}{unknown[0]} is not supported")


def settings(spec: Document, where: str, defaults: Mapping[str, Any]) -> Document:
    """The values of a component's settings, a default where one is missing or null.

    ValueError for a setting that is not known or whose kind is another than the default's.
    """
    require_known(spec, {"type", *defaults}, f"{where}.")
    values = {}
    for name, default in defaults.items():
        value = spec.get(name)
        values[name] = default if value is None else value
        if default is not None and type(values[name]) is not type(default):
            raise ValueError(f"{where}.{name} {short(value)} is not supported")
    return values

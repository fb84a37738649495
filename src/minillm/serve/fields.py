"""The fields of request bodies: what each may hold, as a check and as a JSON schema."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minillm.serve.errors import ApiError
from minillm.words import meant

Schema = dict[str, Any]


class Kind:
    """What a field may hold."""

    def read(self, name: str, value: Any) -> Any:
        """The value; ApiError, naming the field, for any other."""
        raise NotImplementedError

    def schema(self) -> Schema:
        raise NotImplementedError


def wrong(name: str, value: Any, needed: str) -> ApiError:
    """The refusal of a value; a long one is cut."""
    shown = json.dumps(value, ensure_ascii=True)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return ApiError(400, f"{name}: {shown}, {needed} is needed", param=name, code="invalid_value")


@dataclass(frozen=True)
class Text(Kind):
    least: int = 0  # characters
    most: int | None = None

    def read(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(name, value, "a text")
        if len(value) < self.least:
            raise wrong(name, value, f"a text of {self.least} or more characters")
        if self.most is not None and len(value) > self.most:
            raise wrong(name, value, f"a text of at most {self.most} characters")
        checked_unicode(name, value)
        return value

    def schema(self) -> Schema:
        longest = {} if self.most is None else {"maxLength": self.most}
        return {"type": "string", "minLength": self.least, **longest}


@dataclass(frozen=True)
class Flag(Kind):
    def read(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise wrong(name, value, "true or false")
        return value

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Whole(Kind):
    least: int
    most: int

    def read(self, name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong(name, value, "a whole number")
        if not self.least <= value <= self.most:
            raise wrong(name, value, f"{self.least} to {self.most}")
        return value

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Number(Kind):
    least: float
    most: float

    def read(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(name, value, "a number")
        if not self.least <= value <= self.most or not math.isfinite(value):
            raise wrong(name, value, f"{self.least:g} to {self.most:g}")
        return float(value)

    def schema(self) -> Schema:
        return {"type": "number", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Choice(Kind):
    known: tuple[Any, ...]

    def read(self, name: str, value: Any) -> Any:
        if not any(type(value) is type(one) and value == one for one in self.known):
            raise wrong(name, value, f"one of {', '.join(json.dumps(one) for one in self.known)}")
        return value

    def schema(self) -> Schema:
        return {"enum": list(self.known)}


@dataclass(frozen=True)
class Several(Kind):
    """A list; with `alone` one thing in the place of a list of one."""

    of: Kind
    least: int = 1
    most: int = 2048
    alone: bool = False

    def read(self, name: str, value: Any) -> tuple[Any, ...]:
        if self.alone and not isinstance(value, list):
            return (self.of.read(name, value),)
        if not isinstance(value, list):
            raise wrong(name, value, "a list")
        if not self.least <= len(value) <= self.most:
            raise ApiError(
                400,
                f"{name}: {len(value)} given, {self.least} to {self.most} are needed",
                param=name,
                code="invalid_value",
            )
        return tuple(self.of.read(f"{name}[{place}]", one) for place, one in enumerate(value))

    def schema(self) -> Schema:
        found = {"type": "array", "items": self.of.schema(), "minItems": self.least,
                 "maxItems": self.most}  # fmt: skip
        return {"anyOf": [self.of.schema(), found]} if self.alone else found


@dataclass(frozen=True)
class Object(Kind):
    """An object of known fields; null is as good as absent where a field is not `required`.

    With `open`, other fields are kept as they are.
    """

    fields: Mapping[str, Kind]
    required: tuple[str, ...] = ()
    open: bool = False

    def read(self, name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(name or "body", value, "an object")
        dot = f"{name}." if name else ""
        found: dict[str, Any] = {}
        for key, one in value.items():
            if key in self.fields:
                if one is not None or key in self.required:
                    found[key] = self.fields[key].read(dot + key, one)
            elif self.open:
                found[key] = one
            else:
                raise unknown(dot + key[:100], [dot + known for known in self.fields])
        for key in self.required:
            if key not in found:
                raise ApiError(
                    400, f"{dot}{key}: it is missing, it is needed", param=dot + key,
                    code="missing_required_parameter",
                )  # fmt: skip
        return found

    def schema(self) -> Schema:
        optional = {name: kind for name, kind in self.fields.items() if name not in self.required}
        properties = {name: self.fields[name].schema() for name in self.required}
        for name, kind in optional.items():
            properties[name] = {"anyOf": [kind.schema(), {"type": "null"}]}
        found: Schema = {"type": "object", "properties": properties}
        if self.required:
            found["required"] = list(self.required)
        return found if self.open else found | {"additionalProperties": False}


@dataclass(frozen=True)
class Nothing(Kind):
    """null alone: what clients send back of an answer, and stands for nothing here."""

    def read(self, name: str, value: Any) -> None:
        if value is not None:
            raise wrong(name, value, "null")

    def schema(self) -> Schema:
        return {"type": "null"}


@dataclass(frozen=True)
class Anything(Kind):
    """An object that is looked at later."""

    def read(self, name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(name, value, "an object")
        checked_finite(name, value)
        return value

    def schema(self) -> Schema:
        return {"type": "object"}


def unknown(name: str, known: list[str]) -> ApiError:
    hint = meant(name, known, "; unknown or not supported here")
    return ApiError(400, f"{name}: no such field{hint}", param=name, code="unknown_parameter")


def checked_finite(name: str, value: Any) -> None:
    """ApiError for a number beyond those of 64 bits, which JSON can spell and which would become
    an infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ApiError(
            400,
            f"{name}: a number too large for 64 bits, at most 1.8e308 is needed",
            param=name,
            code="invalid_value",
        )
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in pairs:
            if isinstance(one, float | dict | list):
                place = f".{key[:100]}" if isinstance(key, str) else f"[{key}]"
                checked_finite(name + place, one)


def checked_unicode(name: str, text: str) -> None:
    """ApiError for a lone surrogate, which JSON can spell and no text holds."""
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ApiError(
            400,
            f"{name}: lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, "
            "valid Unicode is needed",
            param=name,
            code="invalid_value",
        ) from None

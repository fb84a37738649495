"""Prompts with the fields of a row in them, written as {field}."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any


class Template:
    """`{name}` stands for a field, `{{` and `}}` for braces; ValueError for any other form."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"prompt: {text!r}: {error}, fields as {{name}} are needed") from error
        for _, name, form, conversion in parts:
            if name is not None and (not name.isidentifier() or form or conversion):
                raise ValueError(f"prompt: {text!r} has {{{name}}}, fields as {{name}} are needed")
        self.fields = tuple(dict.fromkeys(name for _, name, _, _ in parts if name))

    def missing(self, fields: Mapping[str, Any]) -> str | None:
        """The first field that a row has no text or number for."""
        known = {name for name, value in fields.items() if isinstance(value, str | int | float)}
        return next((name for name in self.fields if name not in known), None)

    def filled(self, fields: Mapping[str, Any]) -> str:
        return self.text.format_map({name: fields[name] for name in self.fields})

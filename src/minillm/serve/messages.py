"""The messages of a chat, as a template is given them."""

from __future__ import annotations

from typing import Any

from minillm.serve.errors import ApiError
from minillm.serve.fields import Choice, Kind, Object, Several, Text

ROLES = ("system", "developer", "user", "assistant", "tool")
PART = Object({"type": Choice(("text",)), "text": Text()}, ("type", "text"))


class Content(Kind):
    """A text, or a list of parts that are texts, which are joined."""

    def read(self, name: str, value: Any) -> str:
        if isinstance(value, list):
            parts = Several(PART).read(name, value)
            return "".join(part["text"] for part in parts)
        return Text().read(name, value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, Several(PART).schema()]}


MESSAGE = Object({"role": Choice(ROLES), "content": Content()}, ("role", "content"))
MESSAGES = Several(MESSAGE, 1, 10_000)
__all__ = ["MESSAGE", "MESSAGES", "ApiError", "Content"]

"""The messages of a chat, as clients send them and as a template is given them."""

from __future__ import annotations

import json
from typing import Any

from minillm.serve.bodies import parsed
from minillm.serve.errors import ApiError
from minillm.serve.fields import (
    Choice,
    Kind,
    Nothing,
    Object,
    Several,
    Text,
    checked_finite,
)
from minillm.serve.template import Template

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


class Arguments(Kind):
    """The arguments of a call: an object, as JSON text."""

    def read(self, name: str, value: Any) -> dict[str, Any]:
        text = Text().read(name, value)
        found = parsed(text.encode("utf-8"), name)
        if not isinstance(found, dict):
            raise _refused(name, "no JSON object, one is needed")
        checked_finite(name, found)
        return found

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "contentMediaType": "application/json"}


FUNCTION = Object({"name": Text(1), "arguments": Arguments()}, ("name", "arguments"))
CALL = Object(
    {"id": Text(1), "type": Choice(("function",)), "function": FUNCTION}, ("id", "type", "function")
)
MESSAGE = Object(
    {
        "role": Choice(ROLES),
        "content": Content(),
        "tool_calls": Several(CALL, 0, 128),
        "tool_call_id": Text(1),
        **dict.fromkeys(("refusal", "annotations", "audio", "function_call"), Nothing()),
    },
    ("role",),
)
MESSAGES = Several(MESSAGE, 1, 10_000)


def written(messages: tuple[dict[str, Any], ...], template: Template) -> list[dict[str, Any]]:
    """The messages as a template reads them; ApiError for what it would leave out, and for answers
    to calls that nobody made."""
    found, open_calls = [], set[str]()
    for place, message in enumerate(messages):
        name, role = f"messages[{place}]", message["role"]
        calls = message.get("tool_calls", ())
        if "content" not in message and not calls:
            raise _refused(f"{name}.content", "it is missing, a text is needed")
        for key, owner in (("tool_calls", "assistant"), ("tool_call_id", "tool")):
            if key in message and role != owner:
                raise _refused(f"{name}.{key}", f"in a message of the {role}, {owner} is needed")
        if not template.writes(role):
            raise _refused(
                f"{name}.role", f"the chat template writes no message of the role {role}"
            )
        one: dict[str, Any] = {"role": role, "content": message.get("content", "")}
        if role == "tool":
            one["tool_call_id"] = _answered(name, message, open_calls)
        if calls:
            one["tool_calls"] = _calls(name, calls, template)
            open_calls |= {call["id"] for call in calls}
        found.append(one)
    return found


def _answered(name: str, message: dict[str, Any], open_calls: set[str]) -> str:
    """The id of the call that a message answers, which is then answered."""
    id: str | None = message.get("tool_call_id")
    if id is None:
        raise _refused(f"{name}.tool_call_id", "it is missing, it is needed")
    if id not in open_calls:
        raise _refused(f"{name}.tool_call_id", f"{id[:100]!r} answers no call before it")
    open_calls.discard(id)
    return id


def _calls(name: str, calls: tuple[Any, ...], template: Template) -> list[dict[str, Any]]:
    if template.form is None:
        raise _refused(f"{name}.tool_calls", "the chat template writes no calls of tools")
    if len(calls) > 1 and template.form.between is None:
        raise _refused(f"{name}.tool_calls", "the chat template writes one call at a time")
    as_text = template.arguments_as_text
    return [
        call
        | {
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False)
                if as_text
                else call["function"]["arguments"],
            }
        }
        for call in calls
    ]


def _refused(name: str, fact: str) -> ApiError:
    return ApiError(400, f"{name}: {fact}", param=name, code="invalid_value")

"""Tools that a model may call: what a request says of them, and calls read out of its text."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from minillm.generation.constraints.calls import Calls, Form
from minillm.serve.errors import ApiError
from minillm.serve.fields import Anything, Choice, Flag, Kind, Object, Several, Text, wrong
from minillm.serve.template import Template

TOOL = Object(
    {
        "type": Choice(("function",)),
        "function": Object(
            {"name": Text(1), "description": Text(), "parameters": Anything(), "strict": Flag()},
            ("name",),
        ),
    },
    ("type", "function"),
)
NAMED = Object(
    {"type": Choice(("function",)), "function": Object({"name": Text(1)}, ("name",))},
    ("type", "function"),
)
WORDS = ("none", "auto", "required")
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class Choosing(Kind):
    """none, auto, required, or the tool that has to be called."""

    def read(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return Choice(WORDS).read(name, value)
        if not isinstance(value, dict):
            raise wrong(name, value, f"one of {', '.join(WORDS)}, or a function")
        return NAMED.read(name, value)["function"]["name"]

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [Choice(WORDS).schema(), NAMED.schema()]}


FIELDS: dict[str, Kind] = {
    "tools": Several(TOOL, 0, 128),
    "tool_choice": Choosing(),
    "parallel_tool_calls": Flag(),
}


def tools_of(body: Mapping[str, Any], template: Template) -> list[dict[str, Any]]:
    """The tools as a template is given them; ApiError where it has no words for them."""
    tools = list(body.get("tools", ()))
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body and not tools and body[name] != "none":
            raise ApiError(400, f"{name}: given without tools, tools are needed", param=name)
    if tools and not (template.writes_tools and template.form is not None):
        raise ApiError(
            400,
            "tools: the chat template of this model has no words for tools, another model is "
            "needed",
            param="tools",
            code="tools_not_supported",
        )
    names = [tool["function"]["name"] for tool in tools]
    for place, name in enumerate(names):
        param = f"tools[{place}].function.name"
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
            fact = f"{name[:80]!r}, 1 to 64 of letters, digits, _ and - are needed"
            raise ApiError(400, f"{param}: {fact}", param=param, code="invalid_value")
        if name in names[:place]:
            raise ApiError(400, f"{param}: {name!r} stands twice", param=param)
    return tools


def calls_of(body: Mapping[str, Any], template: Template) -> Calls | None:
    """What may be called, by the tools and the choice among them; None without tools."""
    tools, form = body.get("tools", ()), template.form
    if not tools or form is None:
        return None
    choice = body.get("tool_choice", "auto")
    known = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
    schemas = {name: NO_PARAMETERS if one is None else one for name, one in known.items()}
    several = body.get("parallel_tool_calls", True)
    if choice == "none":
        return Calls(form, {})
    if choice in ("auto", "required"):
        return Calls(form, schemas, choice == "auto", several)
    if choice not in schemas:
        raise ApiError(
            400,
            f"tool_choice: {choice[:80]!r} is none of the tools, one of {', '.join(schemas)} is "
            "needed",
            param="tool_choice",
        )
    return Calls(form, {choice: schemas[choice]}, False, False)


class Found(NamedTuple):
    """What a text says before its calls, and these in OpenAI's form."""

    content: str
    calls: list[dict[str, Any]]


def found_in(text: str, form: Form) -> Found:
    """The calls of a whole text."""
    place = text.find(form.head)
    if place < 0:
        return Found(text, [])
    content, calls = text[:place].rstrip(), []
    place += len(form.head)
    decoder = json.JSONDecoder()
    while True:
        end = text.index(form.middle, place)
        first = end + len(form.middle)
        _, last = decoder.raw_decode(text, first)
        function = {"name": text[place:end], "arguments": text[first:last]}
        id = f"call_{secrets.token_hex(8)}"
        calls.append({"id": id, "type": "function", "function": function})
        if form.between is None or not text.startswith(form.between, last):
            return Found(content, calls)
        place = last + len(form.between)


class Splitter:
    """Text as it comes, up to where calls begin; what may begin one is held back."""

    def __init__(self, form: Form) -> None:
        self._form, self._held, self._calling = form, "", False

    def push(self, text: str) -> str:
        """What is certain to be no call."""
        self._held += text
        if self._calling:
            return ""
        place = self._held.find(self._form.marker)
        self._calling = place >= 0
        if not self._calling:
            place = len(self._held) - self._waiting()
        shown, self._held = self._held[:place], self._held[place:]
        return shown.rstrip() if self._calling else shown

    def _waiting(self) -> int:
        """How many characters at the end may belong to a call, or be dropped before one."""
        text, marker = self._held, self._form.marker
        begun = next(
            (n for n in range(min(len(marker), len(text)), 0, -1) if text.endswith(marker[:n])), 0
        )
        return len(text) - len(text[: len(text) - begun].rstrip())

    def rest(self) -> Found:
        """What was held back, at the end of the text."""
        return found_in(self._held, self._form) if self._calling else Found(self._held, [])

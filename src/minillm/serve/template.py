"""What a chat template can write, found out by rendering marks with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from minillm.generation.constraints.calls import Form
from minillm.tokenizers import Tokenizer
from minillm.tokenizers.chat import render, split_at

MARK = "qqmark"
NAMES = ("qqfirst", "qqsecond")
ARGUMENTS = {"qqname": "qqvalue"}
WRITTEN = re.compile(r'\{\s*"qqname"\s*:\s*"qqvalue"\s*\}')


class Template:
    """The template of a tokenizer, asked once for each thing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._roles: dict[str, bool] = {}

    def writes(self, role: str) -> bool:
        """Whether it writes a message of this role; True also where it refuses it itself."""
        if role not in self._roles:
            talk = [{"role": "user", "content": "question"}]
            message = {"role": role, "content": MARK}
            if role == "tool":
                calling = self._calling(NAMES[:1], self.arguments_as_text)
                talk += [calling, message | {"tool_call_id": "call_0"}]
            elif role == "assistant":
                talk += [message]
            else:
                talk = [message, *talk] if role != "user" else [message]
            found = self._rendered(talk)
            self._roles[role] = found is None or MARK in found
        return self._roles[role]

    @cached_property
    def writes_tools(self) -> bool:
        """Whether it tells a model which tools there are."""
        found = self._rendered([{"role": "user", "content": "question"}], True, MARK)
        return found is not None and MARK in found

    @property
    def arguments_as_text(self) -> bool:
        """Whether the arguments of a call are given to it as JSON text, not as an object."""
        return self._calls is not None and self._calls[1]

    @property
    def form(self) -> Form | None:
        """How it writes calls; None where it writes none, or by control tokens."""
        return None if self._calls is None else self._calls[0]

    @cached_property
    def _calls(self) -> tuple[Form, bool] | None:
        for as_text in (False, True):
            one = self._answer(NAMES[:1], as_text)
            spots = [] if one is None else self._spots(one, NAMES[:1])
            if one is None or not spots:
                continue
            (begin, end, first, last), *_ = spots
            two = self._answer(NAMES, as_text)
            between = None
            if two is not None and len(found := self._spots(two, NAMES)) == 2:
                between = two[found[0][3] : found[1][0]]
            head = one[:begin].lstrip()
            form = Form(head, one[end:first], between, one[last:].rstrip(), _marker(head))
            return form, as_text
        return None

    def _answer(self, names: Sequence[str], as_text: bool) -> str | None:
        """What it writes of an answer that calls, up to the first control token."""
        talk = [{"role": "user", "content": "question"}]
        before = self._rendered(talk, True, *names)
        whole = self._rendered([*talk, self._calling(names, as_text)], False, *names)
        if before is None or whole is None or not whole.startswith(before):
            return None
        return split_at(self._tokenizer.special_tokens, whole[len(before) :])[0]

    def _rendered(
        self, talk: Sequence[Mapping[str, Any]], prompts: bool = False, *names: str
    ) -> str | None:
        """None where it refuses."""
        tools = [_tool(name) for name in names] or None
        try:
            return render(self._tokenizer, talk, prompts, tools=tools)
        except ValueError:
            return None

    @staticmethod
    def _calling(names: Sequence[str], as_text: bool) -> dict[str, Any]:
        arguments = json.dumps(ARGUMENTS) if as_text else ARGUMENTS
        calls = [
            {
                "id": f"call_{place}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for place, name in enumerate(names)
        ]
        return {"role": "assistant", "content": "", "tool_calls": calls}

    @staticmethod
    def _spots(text: str, names: Sequence[str]) -> list[tuple[int, int, int, int]]:
        """Where each name, and the arguments after it, begin and end; [] where one is missing."""
        found, place = [], 0
        for name in names:
            begin = text.find(name, place)
            match = None if begin < 0 else WRITTEN.search(text, begin)
            if match is None:
                return []
            found.append((begin, begin + len(name), match.start(), match.end()))
            place = match.end()
        return found


def _marker(head: str) -> str:
    """What tells that a call begins: the words before its first brace, else all up to the first
    key."""
    words = head.partition("{")[0].strip()
    if words:
        return words
    key = head.find('"', head.find('"') + 1)
    return head[: key + 1] if key > 0 else head


def _tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"qqname": {"type": "string"}}}
    return {
        "type": "function",
        "function": {"name": name, "description": name, "parameters": parameters},
    }

"""Conversations to learn from: rows of JSON as messages, and what is wrong in which line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from minillm.data.sources import TEXT
from minillm.data.tables import Faults, require_known, text_of

Messages = list[dict[str, str]]
FIELDS = (
    "messages", "turns", "prompt", "answer", "instruction", "input", "output", "chosen", "rejected",
    "text",
)  # fmt: skip
FORMS = (
    "an object with messages, turns, instruction and output, prompt and answer, or text, or with "
    "chosen and rejected"
)


class Fault(ValueError):
    """What is wrong with a row: its kind, the detail, and what is needed in its place."""

    def __init__(self, detail: str, needed: str, kind: str | None = None) -> None:
        super().__init__(kind or detail, detail, needed)


class Talk(NamedTuple):
    """What a row says: messages that end with an answer, or with the answer `rejected` beside it.

    `text` instead of messages is learnt as a whole.
    """

    line: int
    messages: Messages
    rejected: str | None = None
    text: str | None = None


def read(
    path: str, faults: Faults, columns: Mapping[str, str] | None = None, instruction: str = ""
) -> Iterator[Talk]:
    """The conversations of a file: JSON lines, a JSON array, or plain text as one document.

    `columns` says what a field is called in the file where it has another name; `instruction` is
    put before each prompt. A row that is none of `FORMS` goes to `faults`.
    """
    require_known(columns or {}, FIELDS)
    text, source = text_of(path)
    if source.kind == TEXT:
        if columns or instruction:
            raise ValueError(
                f"{'columns' if columns else 'instruction'}: {source.name} is text that is learnt "
                "whole, rows with a prompt are needed; leave it out"
            )
        yield Talk(1, [], text=text)
        return
    for line, row in _rows(text, faults):
        try:
            talk = _talk(line, row, columns or {}, instruction)
        except Fault as fault:
            faults.found(line, *fault.args)
            continue
        yield talk


def _rows(text: str, faults: Faults) -> Iterator[tuple[int, Any]]:
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"read: {faults.name}: not JSON ({error}), an array is needed"
            ) from None
        yield from enumerate(found, 1)
        return
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            yield line, json.loads(content)
        except (ValueError, RecursionError) as error:
            faults.found(line, "no JSON", f"no JSON ({error})", "an object")


def instructed(instruction: str, text: str) -> str:
    """A text with what is to be done with it before it."""
    return f"{instruction}\n\n{text}" if instruction else text


def _talk(line: int, row: Any, columns: Mapping[str, str], instruction: str) -> Talk:
    if not isinstance(row, dict):
        raise Fault("no object", FORMS)

    def field(name: str, kind: type = str) -> Any:
        key = columns.get(name, name)
        value = row.get(key)
        if kind is str and isinstance(value, list) and value:
            value = value[0]  # the first of several references
        if value is not None and not isinstance(value, kind):
            raise Fault(f"{key!r} is no {_KINDS[kind.__name__]}", "one")
        return value

    rejected = field("rejected")
    answer = field("answer") if rejected is None else field("chosen")
    if rejected is not None and answer is None:
        raise Fault("rejected without chosen", "a row with both")
    messages = _messages(field("messages", list), field("turns", list))
    if not messages:
        prompt = field("prompt")
        if prompt is None and field("instruction") is not None:
            prompt = "\n\n".join(filter(None, (field("instruction"), field("input"))))
            answer = field("output") if answer is None else answer
        if prompt is None:
            if instruction and field("text"):
                raise Fault("a text without a prompt for the instruction", "a row with a prompt")
            return _text(line, field("text"), row, answer is None)
        messages = [{"role": "user", "content": prompt}]
    if answer is not None:
        messages = [*messages, {"role": "assistant", "content": answer}]
    if messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise Fault("no answer at the end", "an assistant's message with text")
    if len(messages) < 2:
        raise Fault("nothing before the answer", "a message of the user")
    if rejected is not None and rejected == messages[-1]["content"]:
        raise Fault("chosen and rejected are the same", "another answer")
    if instruction:
        asking = [place for place, one in enumerate(messages) if one["role"] == "user"]
        if not asking:
            raise Fault("no message of the user", "one")
        first = asking[0]
        asked = instructed(instruction, messages[first]["content"])
        messages[first] = {"role": "user", "content": asked}
    return Talk(line, messages, rejected)


_KINDS = {"str": "text", "list": "list"}


def _text(line: int, text: str | None, row: Mapping[str, Any], alone: bool) -> Talk:
    if text is None or not alone:
        present = ", ".join(map(repr, list(row)[:8])) or "nothing"
        raise Fault(f"the fields {present}", FORMS, "other fields")
    if not text.strip():
        raise Fault("an empty text", "one with words")
    return Talk(line, [], text=text)


def _messages(messages: list[Any] | None, turns: list[Any] | None) -> Messages:
    if turns is not None:
        if not all(isinstance(turn, str) for turn in turns):
            raise Fault("a turn that is no text", "a list of texts")
        turns = turns[: len(turns) // 2 * 2]  # what is not answered teaches nothing
        roles = ("user", "assistant")
        return [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]
    found = []
    for one in messages or ():
        if not isinstance(one, dict) or not isinstance(one.get("role"), str):
            raise Fault("a message without role", "one with role and content")
        if not isinstance(one.get("content"), str):
            raise Fault("a message without text", "one with role and content")
        found.append({"role": one["role"], "content": one["content"]})
    return found

"""Conversations as text and as ids: the chat template of a tokenizer, rendered in a sandbox.

A control token counts only where the template wrote it. To know that, the conversation is rendered
twice: as it is, and with the punctuation of control tokens (such as < | >) in all that the caller
gave replaced, character by character, by private-use twins. Twins keep every length and every blank
in place, so trimming, slicing and splitting templates do to them what they do to the text. A
placeholder for a whole message would not survive that, nor templates that look at its words. Put
back, the twins must give the first text. Where they do not, because the template looks for such
punctuation (as for </think>), twins stand in spelled-out control tokens only, and the template must
then write the same control tokens as before. If that fails too, the conversation is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .chat_templates import environment, one_line

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

Message = Mapping[str, Any]
TOOL_KEYS = {"tool_calls", "tool_call_id"}  # of messages that call tools, and that answer a call

_LAST_PRIVATE = 0x10FFFD
_WORDS = "_-"  # stand in names of roles and the like; no control token is told by them alone


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    **variables: Any,
) -> str:
    """The text of a conversation, as the tokenizer's chat template writes it.

    messages               each {"role": str, "content": str}; one that calls tools also has
                           "tool_calls", a list, one that answers a call "tool_call_id"
    add_generation_prompt  the template also begins the answer
    variables              what else the template reads, such as enable_thinking=False

    Raises TypeError and ValueError for other messages, ValueError where there is no template or
    it fails or refuses, RuntimeError without the extra `chat`. Do not encode the text: a control
    token that a user spelled cannot be told from the template's; `apply_chat_template` does it.
    """
    return _Conversation(tokenizer, messages, add_generation_prompt, variables).text()


def chat_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> list[int]:
    """The ids of a conversation; control tokens where the template writes them, nowhere else."""
    conversation = _Conversation(tokenizer, messages, add_generation_prompt, variables)
    text, names = conversation.text(), tokenizer.special_tokens
    parts = _parts(conversation, text, names)
    if parts == split_at(names, text):
        return tokenizer.encode(text, split_special_tokens=False)
    return tokenizer.encode_parts(parts)


def split_at(names: Iterable[str], text: str) -> list[str]:
    """Text and control tokens in turn: the first, third ... part is text, maybe empty."""
    longest_first = sorted(filter(None, names), key=len, reverse=True)
    pattern = "|".join(map(re.escape, longest_first))
    return re.split(f"({pattern})", text) if pattern else [text]


class _Conversation:
    """The template and what it is given."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> None:
        _check(messages)
        if tokenizer.chat_template is None:
            raise ValueError("chat template: the tokenizer has none, one is needed")
        self._template = tokenizer.chat_template
        self.given = {"messages": list(map(dict, messages)), **variables}
        now = datetime.now()  # the same whenever it is rendered
        roles = {
            f"{role}_token": tokenizer.id_to_token(id) for role, id in tokenizer.role_ids.items()
        }
        self._fixed = {
            "tools": None,
            "documents": None,
            **roles,
            "add_generation_prompt": add_generation_prompt,
            "strftime_now": lambda form: now.strftime(form),
        }

    def text(self, given: Mapping[str, Any] | None = None) -> str:
        """What the template makes of `given`, else of what the caller gave."""
        values = self._fixed | dict(self.given if given is None else given)
        compiled = _compiled(self._template)
        try:
            return str(compiled.render(values))
        except Exception as error:  # a template can raise whatever Python can
            raise ValueError(f"chat template: it says: {one_line(error)}") from None


@lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    made = environment()
    try:
        return made.from_string(template)
    except Exception as error:  # as above, while constants are folded
        raise ValueError(f"chat template: it is damaged: {one_line(error)}") from None


def _parts(conversation: _Conversation, text: str, names: Iterable[str]) -> list[str]:
    """The text split at the control tokens that the template wrote."""
    names = list(names)
    given = conversation.given
    twins = _twins(names, "".join([text, *_strings(given)]))
    back = {ord(twin): char for char, twin in twins.items()}
    table = str.maketrans(twins)
    marked = _changed(given, lambda found: found.translate(table))
    parts = split_at(names, conversation.text(marked))
    if "".join(parts).translate(back) != text:
        controls = parts[1::2]
        marked = _changed(given, lambda found: _spelled_twins(names, found, table))
        parts = split_at(names, conversation.text(marked))
        if parts[1::2] != controls or "".join(parts).translate(back) != text:
            raise ValueError(
                "chat template: it changes the control tokens spelled in a message "
                "and they cannot be told from its own, messages without them are needed"
            )
    return [part.translate(back) for part in parts]


def _twins(names: Iterable[str], used: str) -> dict[str, str]:
    """A private-use character, found nowhere else, for each one that tells a control token."""
    telling: set[str] = set()
    for name in filter(None, names):
        marks = {char for char in name if not (char.isalnum() or char.isspace() or char in _WORDS)}
        telling |= marks or {name[0]}
    free = (chr(code) for code in range(_LAST_PRIVATE, 0, -1) if chr(code) not in used)
    return dict(zip(sorted(telling), free))


def _spelled_twins(names: Iterable[str], text: str, table: Mapping[int, int | str]) -> str:
    parts = split_at(names, text)
    parts[1::2] = [name.translate(table) for name in parts[1::2]]
    return "".join(parts)


def _changed(value: Any, change: Any) -> Any:
    """`value` with each string in it changed; names of fields stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {name: _changed(one, change) for name, one in value.items()}
    return [_changed(one, change) for one in value] if isinstance(value, list | tuple) else value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


def _check(messages: Any) -> None:
    need = 'a list of {"role": str, "content": str} is needed'
    if not isinstance(messages, list | tuple):
        raise TypeError(f"chat template: messages is {type(messages).__name__}, {need}")
    if not messages:
        raise ValueError(f"chat template: messages is empty, {need}")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TypeError(f"chat template: message {index} is {type(message).__name__}, {need}")
        if message.keys() - TOOL_KEYS != {"role", "content"}:
            raise ValueError(
                f"chat template: message {index} has the keys "
                f"{', '.join(map(str, message)) or 'none'}, {need}"
            )
        for key, value in message.items():
            if key != "tool_calls" and not isinstance(value, str):
                kind = type(value).__name__
                raise TypeError(f"chat template: {key} of message {index} is {kind}, {need}")

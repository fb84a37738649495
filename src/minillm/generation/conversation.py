"""A conversation with a model: what was said, and how much of it the model can still see."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from minillm.quantities import counted
from minillm.tokenizers import Tokenizer
from minillm.tokenizers.chat import render, split_at

ROLES = ("user", "assistant")
_MARK = "answer"


class Conversation:
    """Messages of a user and an assistant in turn, behind at most one system message.

    `messages` holds them all without the system's. The first `forgotten` of them no longer fit the
    context: they are kept, but the model does not read them. ValueError, as in
    `Tokenizer.apply_chat_template`, where there is no template or it refuses.
    """

    def __init__(
        self, tokenizer: Tokenizer, system: str | None = None, context: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.system: str | None = None
        self.messages: list[dict[str, str]] = []
        self.forgotten = 0
        self.ends = turn_ends(tokenizer)
        self.instruct(system)

    @property
    def waits(self) -> bool:
        """Whether the last message is the user's."""
        return bool(self.messages) and self.messages[-1]["role"] == "user"

    def instruct(self, system: str | None) -> None:
        """Change the system message, None for none; ValueError if the template refuses it."""
        before, self.system = self.system, system
        try:
            self._ids([{"role": "user", "content": _MARK}])
        except ValueError:
            self.system = before
            raise

    def say(self, text: str) -> None:
        """Add the user's message; where one still waits for its answer, it gives way."""
        if self.waits:
            self.messages.pop()
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Add the assistant's message."""
        self.messages.append({"role": "assistant", "content": text})

    def take_back_answer(self) -> bool:
        """Whether there is a message to be answered (again): the answer it had is gone."""
        if self.messages and not self.waits:
            self.messages.pop()
        self._remember()
        return self.waits

    def take_back_turn(self) -> str | None:
        """Remove the last message of the user and its answer; the user's text, None without one."""
        text = self.messages.pop()["content"] if self.take_back_answer() else None
        self._remember()
        return text

    def clear(self) -> None:
        """Forget all but the system message."""
        self.messages = []
        self.forgotten = 0

    def prompt(self, room: int) -> tuple[list[int], int]:
        """The ids an answer is to continue, and how many messages had to be forgotten for it.

        Where fewer than `room` tokens are left for the answer, the oldest turns go until half the
        context is free: what is left can then be reused for some turns. ValueError where the last
        message alone does not fit.
        """
        ids = self._ids(self.messages[self.forgotten :])
        if self.context is None or len(ids) + room <= self.context:
            return ids, 0
        before = self.forgotten
        for start in [turn for turn in self._turns() if turn > before]:
            self.forgotten = start
            ids = self._ids(self.messages[start:])
            if len(ids) + room <= self.context and 2 * len(ids) <= self.context:
                break
        if len(ids) >= self.context:
            self.forgotten = before
            raise ValueError(
                f"chat: the message alone makes {counted(len(ids), 'token')} with the template, at "
                f"most {self.context - 1} fit the context of {self.context:,}; shorten it"
            )
        return ids, self.forgotten - before

    def to_list(self) -> list[dict[str, str]]:
        """Every message, the system's first."""
        return self._head() + [dict(message) for message in self.messages]

    def replace(self, messages: Any) -> None:
        """Take over a list as `to_list` gives it. ValueError, and no change, for any other."""
        messages = _checked(messages)
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else None
        self.instruct(system)
        self.clear()
        self.messages = messages

    def _turns(self) -> list[int]:
        return [i for i, message in enumerate(self.messages) if message["role"] == "user"]

    def _remember(self) -> None:
        """What stands before the last turns may fit again once some are gone."""
        if self.forgotten > max(self._turns(), default=0):
            self.forgotten = 0

    def _ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        talk = [*self._head(), *messages]
        ids = self.tokenizer.apply_chat_template(talk, add_generation_prompt=True)
        if not ids:
            raise ValueError(
                "chat: the template makes 0 tokens of the message, 1 or more are needed"
            )
        return ids

    def _head(self) -> list[dict[str, str]]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]


def turn_ends(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end an answer: the end of a text, and what the template writes after an answer.

    A template may end turns with a token of its own, such as <|eot_id|>. Errors as in `render`.
    """
    talk = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _MARK}]
    behind = render(tokenizer, talk).rpartition(_MARK)[2]
    ends = [
        tokenizer.special_tokens[name] for name in split_at(tokenizer.special_tokens, behind)[1:2]
    ]
    return frozenset(ends) | ({tokenizer.eos_id} if tokenizer.eos_id is not None else frozenset())


def from_json(text: str) -> Any:
    """The content of a saved conversation; ValueError for what is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"chat: not valid JSON ({error}), a saved conversation is needed"
        ) from None


def _checked(messages: Any) -> list[dict[str, str]]:
    """A copy of messages that are alternately the user's and the assistant's."""
    need = 'a list of {"role": ..., "content": ...}, user and assistant in turn, is needed'
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"chat: no list of messages, {need}")
    first = isinstance(messages[0], dict) and messages[0].get("role") == "system"
    for place, message in enumerate(messages):
        expected = "system" if first and place == 0 else ROLES[(place - first) % 2]
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise ValueError(f"chat: message {place} has no role and content alone, {need}")
        if message["role"] != expected or not isinstance(message["content"], str):
            raise ValueError(f"chat: message {place} is no text of the {expected}, {need}")
    return [dict(message) for message in messages]

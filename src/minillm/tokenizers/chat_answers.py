"""Which ids of a conversation a model learns: its answers and what ends them, by their lengths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .chat import Message, _Conversation, _parts

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


class Learnt(NamedTuple):
    """Ids of a text, and for each whether it is learnt."""

    ids: list[int]
    learnt: list[bool]


def learnt_ids(
    tokenizer: Tokenizer, messages: Sequence[Message], variables: Mapping[str, Any] | None = None
) -> Learnt:
    """The ids of a conversation up to its last answer; learnt are those of every answer.

    An answer begins where a prompt for it ends, so that the ids before it are those that the model
    is given when it answers, and goes on to the first control token that the template writes after
    it (the tokenizer's end where there is none). Which ids these are is never asked: an end that
    is also used for padding is learnt as well. Control tokens count only where the template writes
    them. ValueError without an answer, and for a template that writes what was said before in
    another way once it is answered.
    """
    answers = [place for place, one in enumerate(messages) if one.get("role") == "assistant"]
    if not answers:
        raise ValueError("chat: no message of the assistant, at least 1 is needed to learn from")
    found = Learnt([], [])
    for parts, learnt in _stretches(tokenizer, messages, answers, variables or {}):
        if not learnt:
            _extend(found, tokenizer.encode_parts(parts, begins=not found.ids), False)
            continue
        ended = parts[1:2]  # the first control token after the answer
        answer = [parts[0], *ended, ""] if ended else parts
        _extend(found, tokenizer.encode_parts(answer, begins=False), True)
        if not ended and tokenizer.eos_id is not None:
            _extend(found, [tokenizer.eos_id], True)
        if parts[2:]:
            _extend(found, tokenizer.encode_parts(parts[2:], begins=False), False)
    while found.learnt and not found.learnt[-1]:  # after the last answer
        found.ids.pop()
        found.learnt.pop()
    return found


def _extend(found: Learnt, ids: Sequence[int], learnt: bool) -> None:
    found.ids.extend(ids)
    found.learnt.extend([learnt] * len(ids))


def _stretches(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    answers: Sequence[int],
    variables: Mapping[str, Any],
) -> Iterator[tuple[list[str], bool]]:
    """What lies between answers and the answers, in turn: text and control tokens in turn."""
    done = ""
    for place in answers:
        for count, prompts in ((place, True), (place + 1, False)):
            whole = _Conversation(tokenizer, messages[:count], prompts, variables)
            text = whole.text()
            if not text.startswith(done):
                raise ValueError(
                    f"chat: the template writes the text before message {place} in another way "
                    "once it is answered, one that only appends is needed to learn from"
                )
            parts = _parts(whole, text, tokenizer.special_tokens)
            yield _after(parts, len(done)), not prompts
            done = text


def _after(parts: list[str], length: int) -> list[str]:
    """What follows the first `length` characters: text and control tokens in turn."""
    for place, part in enumerate(parts):
        if place % 2 == 0 and length <= len(part):
            return [part[length:], *parts[place + 1 :]]
        length -= len(part)
    return [""]

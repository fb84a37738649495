"""What a tuning run learns from: conversations as ids, fitted to the context, some held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from minillm.data import conversations
from minillm.data.conversations import Talk
from minillm.data.learnt import Examples, Parts, fit
from minillm.data.order import Order
from minillm.data.tables import Faults, columns_of
from minillm.quantities import counted
from minillm.tokenizers import Tokenizer
from minillm.tokenizers.chat_answers import Learnt, learnt_ids
from minillm.training.run_folder import Say

Example = tuple[list[int], list[bool]]
DEFAULT_CONTEXT = 512
HELD_OUT_SEED = 0x5EED  # not that of the run: other seeds are compared on the same examples


def read_parts(
    files: Sequence[str], tokenizer: Tokenizer, settings: Any, context: int, say: Say
) -> Parts:
    """The examples of all files, a share of them held out by a hash of their first turns.

    Examples with the same beginning fall on the same side. ValueError if nothing can be learnt.
    """
    pairs = settings.objective != "answers"
    reader = Reader(tokenizer, settings, context, say)
    found: list[tuple[str, list[Example]]] = []
    for path in files:
        faults = Faults(path, settings.on_bad)
        for talk in conversations.read(
            path, faults, columns_of(settings.columns), settings.instruction or ""
        ):
            if len(found) >= (settings.limit or len(found) + 1):
                break
            if pairs and talk.rejected is None:
                faults.found(
                    talk.line, "no rejected answer", "no rejected answer", "a row with both"
                )
                continue
            found += [(_key(talk), examples) for examples in reader.examples(talk, faults)]
        if len(faults):
            say(str(faults))
    reader.tell(say)
    if not found:
        raise ValueError(
            f"{settings.command}: no example in {', '.join(map(str, files))} has a token to learn, "
            "at least 1 is needed"
        )
    held = _held_out([key for key, _ in found], settings.val_fraction)
    sides: list[list[Example]] = [[], []]
    for key, examples in found:
        sides[key in held] += examples
    return Parts(*map(Examples.of, sides))


def _key(talk: Talk) -> str:
    """A hash of a text, or of what the user says first: the same beginning, the same side."""
    users = (one["content"] for one in talk.messages[:-1] if one["role"] == "user")
    said = talk.text or next(users, talk.messages[0]["content"] if talk.messages else "")
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


def _held_out(keys: list[str], share: float) -> set[str]:
    """Enough different keys for `share` of the examples, at least one of several; drawn evenly."""
    order = sorted(set(keys))
    if share == 0 or len(order) < 2:
        return set()
    held: set[str] = set()
    many, count = Counter(keys), 0
    for place in Order(len(order), HELD_OUT_SEED).samples(0, len(order) - 1):
        if held and count >= share * len(keys):
            break
        held.add(order[place])
        count += many[order[place]]
    return held


class Reader:
    """Talks to examples; counts what was cut and what was left out."""

    def __init__(self, tokenizer: Tokenizer, settings: Any, context: int, say: Say) -> None:
        self.tokenizer, self.context = tokenizer, context
        self.command = settings.command
        self.read = self.cut = self.dropped = 0

    def examples(self, talk: Talk, faults: Faults) -> Iterator[list[Example]]:
        """One, or chosen and rejected, or the stretches of a text; none for what cannot fit."""
        if talk.text is not None:
            for example in self._stretches(talk.text):
                self.read += 1
                yield [example]
            return
        versions = [talk.messages]
        if talk.rejected is not None:
            answer = {"role": "assistant", "content": talk.rejected}
            versions.append([*talk.messages[:-1], answer])
        try:
            made = [learnt_ids(self.tokenizer, messages) for messages in versions]
        except ValueError as error:
            if self.tokenizer.chat_template is None:
                raise ValueError(
                    f"{self.command}: the base has no chat template, one is needed; --template "
                    "FILE gives one"
                ) from None
            faults.found(talk.line, "what the template refuses", str(error), "another row")
            return
        if talk.rejected is not None:  # what is preferred is the last answer
            made = [Learnt(*_last_only(*one)) for one in made]
            if made[0][0] == made[1][0]:
                faults.found(
                    talk.line,
                    "equal answers",
                    "chosen and rejected are the same tokens",
                    "another answer",
                )
                return
        self.read += 1
        fitted = [fit(list(one[0]), list(one[1]), self.context) for one in made]
        if any(one.example is None for one in fitted):
            self.dropped += 1
            return
        self.cut += any(one.cut for one in fitted)
        yield [one.example for one in fitted if one.example is not None]

    def _stretches(self, text: str) -> Iterator[Example]:
        """A whole text, in pieces of the context that share the token where they meet."""
        ids = self.tokenizer.encode(text)
        if self.tokenizer.eos_id is not None:
            ids = [*ids, self.tokenizer.eos_id]
        for at in range(0, max(1, len(ids) - 1), self.context):
            part = ids[at : at + self.context + 1]
            if len(part) > 1:
                yield part, [True] * len(part)

    def tell(self, say: Say) -> None:
        if self.cut:
            say(
                f"cut the beginning of {counted(self.cut, 'example')} to keep the answer within "
                f"{self.context} tokens"
            )
        if self.dropped:
            say(
                f"dropped {self.dropped} of {self.read}: no trainable token within "
                f"{self.context} tokens"
            )


def _last_only(ids: list[int], learnt: list[bool]) -> Example:
    """The same ids, of which only the last answer is learnt."""
    end = len(learnt)
    begin = end
    while begin and learnt[begin - 1]:
        begin -= 1
    return ids, [False] * begin + [True] * (end - begin)

"""A talk with a model at the terminal: messages in, answers out, Ctrl-C between them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from minillm.arrays import new_generator
from minillm.cli.keyboard import Messages, Stop
from minillm.cli.main import ERRORS, OK, one_line, tell
from minillm.cli.talk_commands import obey
from minillm.generation import Sampler
from minillm.generation.conversation import Conversation
from minillm.generation.reading import Reader
from minillm.generation.writing import end_ids
from minillm.training.console import Console, visible

CHUNK = 128  # tokens of a prompt between two looks for Ctrl-C


@dataclass(frozen=True)
class Settings:
    """How answers are drawn; ValueError for impossible values."""

    max_tokens: int = 1024
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max-tokens: {self.max_tokens}, 1 or more is needed")
        Sampler(self.temperature, self.top_k, self.top_p)


@dataclass
class Answer:
    """Figures of one answer: tokens of the prompt, those of them read before, tokens, seconds."""

    prompt: int
    known: int
    seed: int
    tokens: int = 0
    first: float = 0.0
    seconds: float = 0.0

    @property
    def speed(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / max(self.seconds - self.first, 1e-9) if self.tokens > 1 else 0.0


class Writer:
    """Continues ids; what it has read for the last text is not read again."""

    def __init__(self, model: Any, vocab_size: int) -> None:
        self._reader, self._size = Reader(model), vocab_size
        self._reading = self._reader.begin()

    def known(self, ids: list[int]) -> int:
        """How many of the ids are read already."""
        pairs = enumerate(zip(self._reading.ids, ids[:-1]))
        same = min(self._reading.length, len(ids) - 1)
        return next((place for place, (old, new) in pairs if old != new), same)

    def write(self, ids: list[int], settings: Settings, seed: int) -> Iterator[int | None]:
        """Ids that follow, without end; None where some more of the prompt has been read."""
        sampler = Sampler(settings.temperature, settings.top_k, settings.top_p)
        generator, reading = new_generator(seed), self._reading
        known = self.known(ids)
        reading.rewind(known)
        for start in range(known, len(ids), CHUNK):
            (logits,) = self._reader.read([(reading, ids[start : start + CHUNK])])
            yield None
        while True:
            id = sampler.pick(logits[: self._size], generator)
            yield id
            (logits,) = self._reader.read([(reading, [id])])


class Talk:
    """Reads messages, writes answers, obeys commands."""

    def __init__(
        self, model: Any, conversation: Conversation, settings: Settings, seed: int
    ) -> None:
        if seed < 0:
            raise ValueError(f"--seed: {seed}, 0 or more is needed")
        self.model, self.conversation = model, conversation
        self.settings, self.seed = settings, seed
        self.answers: list[Answer] = []
        self.ends = conversation.ends.union(end_ids(model.config))
        self.console = Console(sys.stdout)
        self.left = False  # /exit was said
        self.file: str | None = None  # what was saved or loaded
        self._shown = visible if self.console.isatty() else str
        self._stop, self._warned = Stop(), False
        self._begin()

    def run(self, messages: Messages) -> int:
        """Talk until the messages end; the exit code."""
        self._interactive = messages.interactive
        if self._interactive:
            tell("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves")
        while not self.left and self.console.lost is None and self._turn(messages):
            pass
        messages.save_history()
        if self.console.full is not None:
            raise self.console.full
        return OK

    def say(self, text: str) -> None:
        """Write a line for the person."""
        self.console.write(self._shown(text) + "\n")

    def ask(self, text: str) -> None:
        """Send a message and write the answer."""
        self.conversation.say(text)
        try:
            self.reply()
        except ERRORS:
            if self.conversation.waits:
                self.conversation.messages.pop()
            raise

    def reply(self) -> None:
        """Write the answer to the last message, and add it to the conversation."""
        room = min(self.settings.max_tokens, (self.conversation.context or 4096) // 4)
        ids, gone = self.conversation.prompt(room)
        if gone:
            tell(
                f"minillm: note: the context of {self.conversation.context:,} tokens is full, the "
                f"model no longer sees the oldest {self.conversation.forgotten} messages"
            )
        answer = Answer(len(ids), self._writer.known(ids), self.seed)
        self.seed += 1
        text, why = self._write(ids, answer)
        self.answers.append(answer)
        self.console.write("\n")
        if why is not None and self.console.lost is None:
            tell(f"minillm: note: {why}")
        if text or why is None:  # else it waits: the next message replaces it, /retry answers it
            self.conversation.answer(text)

    def _write(self, ids: list[int], answer: Answer) -> tuple[str, str | None]:
        """The answer's text as far as it was written, and why it is not whole."""
        context, settings = self.conversation.context, self.settings
        limit = (
            settings.max_tokens if context is None else min(settings.max_tokens, context - len(ids))
        )
        decoder, parts = self.conversation.tokenizer.stream(), []
        begin = time.perf_counter()
        why = None
        try:
            with self._stop.listening(self._interactive):
                for id in self._writer.write(ids, settings, answer.seed):
                    answer.seconds = time.perf_counter() - begin
                    if self._stop.requested or self.console.lost is not None:
                        why = "stopped"
                        break
                    if id is None:
                        continue
                    answer.tokens += 1
                    answer.first = answer.first or answer.seconds
                    if id in self.ends:
                        break
                    parts.append(decoder.push(id))
                    self.console.write(self._shown(parts[-1]))
                    if answer.tokens == limit:
                        full = limit < settings.max_tokens
                        why = (
                            "the context is full"
                            if full
                            else f"cut after {limit} tokens, --max-tokens"
                        )
                        break
        except KeyboardInterrupt:  # in the middle of a step: what was read cannot be relied on
            if not self._interactive:
                raise
            self._begin()
            why = "stopped"
        parts.append(decoder.flush())
        self.console.write(self._shown(parts[-1]))
        return "".join(parts), why

    def _begin(self) -> None:
        self._writer = Writer(self.model, self.conversation.tokenizer.vocab_size)

    def _turn(self, messages: Messages) -> bool:
        """One message; False at the end. Errors end the program for a pipe, not for a person."""
        try:
            text = messages.next()
            if text is None:
                return False
            self._warned = False
            if text.startswith("/"):
                obey(self, text)
            elif text.strip():
                self.ask(text)
        except KeyboardInterrupt:
            if not self._interactive or self._warned:
                raise
            self._warned = True
            tell("\n(Ctrl-C again, Ctrl-D or /exit leaves)")
        except ERRORS as error:
            if not self._interactive:
                raise
            tell(f"minillm: {one_line(error)}")
        return True

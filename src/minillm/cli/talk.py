"""A talk with a model at the terminal: messages in, answers out, Ctrl-C between them."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from minillm.cli.damage import named
from minillm.cli.keyboard import Messages, Stop
from minillm.cli.main import ERRORS, OK, one_line, tell
from minillm.cli.talk_commands import obey
from minillm.cli.talk_writer import Answer, Writer
from minillm.generation.conversation import Conversation
from minillm.generation.options import Options
from minillm.quantities import counted
from minillm.training.console import Console, visible

ROOM = 4  # a part of the context that an answer is given, where it may take as much


class Talk:
    """Reads messages, writes answers, obeys commands."""

    def __init__(
        self, model: Any, conversation: Conversation, options: Options, name: str = "the model"
    ) -> None:
        """`name` is what errors call the model."""
        self.model, self.conversation, self.name = model, conversation, name
        self.use(options)
        self.answers: list[Answer] = []
        self.console = Console(sys.stdout)
        self.left = False  # /exit was said
        self.file: str | None = None  # what was saved or loaded
        self._shown = visible if self.console.isatty() else str
        self._stop, self._warned, self._interactive = Stop(), False, False
        self._begin()

    def run(self, messages: Messages) -> int:
        """Talk until the messages end; the exit code."""
        self._interactive = messages.interactive
        if self._interactive:
            tell("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves")
        try:
            while not self.left and self.console.lost is None and self._turn(messages):
                pass
        finally:
            messages.save_history()
        if self.console.full is not None:
            raise self.console.full
        return OK

    def use(self, options: Options) -> None:
        """Draw answers this way; the seed is that of the next. ValueError without max_tokens."""
        if not options.max_tokens:
            raise ValueError(f"max-tokens: {options.max_tokens}, 1 or more is needed")
        self.options = options

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
        talk, most = self.conversation, self.options.max_tokens or 1
        ids, gone = talk.prompt(most if talk.context is None else min(most, talk.context // ROOM))
        if gone:
            tell(
                f"minillm: note: the context of {talk.context:,} tokens is full, the model no "
                f"longer sees the oldest {counted(talk.forgotten, 'message')}"
            )
        limit = most if talk.context is None else min(most, talk.context - len(ids))
        options = dataclasses.replace(self.options, max_tokens=limit)
        answer = Answer(len(ids), options.seed)
        self.options = dataclasses.replace(self.options, seed=options.seed + 1)
        self.answers.append(answer)
        text = self._write(ids, options, answer)
        if self.console.lost is not None:
            return
        if answer.finish_reason is None:
            begun = "" if text else " before the answer began; /retry answers the message"
            tell(f"minillm: note: stopped{begun}")
        elif answer.finish_reason == "length":
            cut = "the context is full" if limit < most else "max-tokens"
            tell(f"minillm: note: cut after {counted(limit, 'token')}, {cut}")
        if text or answer.finish_reason:
            talk.answer(text)

    def _write(self, ids: list[int], options: Options, answer: Answer) -> str:
        """Write the answer until it ends or is stopped; the text that was shown."""
        parts: list[str] = []
        try:
            with named("chat", self.name), self._stop.listening(self._interactive):
                for text in self._writer.write(ids, options, answer):
                    unfinished = answer.finish_reason is None
                    if unfinished and (self._stop.requested or self.console.lost is not None):
                        break
                    parts.append(text)
                    self.console.write(self._shown(text))
        except ERRORS:
            self.console.write("\n" * bool(parts))
            raise
        except KeyboardInterrupt:  # in the middle of a step: what was read cannot be relied on
            if not self._interactive:
                raise
            self._begin()
        self.console.write("\n")
        return "".join(parts)

    def _begin(self) -> None:
        talk = self.conversation
        self._writer = Writer(self.model, talk.tokenizer, talk.ends, self.options.cache_dtype)

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
            tell(f"minillm: {one_line(error, 'chat')}")
        return True

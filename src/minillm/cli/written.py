"""What `minillm generate` shows of a text: as it comes, as a list, as JSON, token by token."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from minillm.cli.main import tell
from minillm.generation.completions import Completion, Logprob
from minillm.generation.engine import Engine
from minillm.generation.memory import require_list
from minillm.generation.options import Options
from minillm.quantities import counted
from minillm.tokenizers import Tokenizer
from minillm.training.console import Console, visible

MOST_TOGETHER = 31  # texts; the extension takes no more in one pass over the weights
COLOURS = ((0.5, 32), (0.1, 33), (0.0, 31))  # green, yellow, red: from this probability on


class Written:
    """The texts of one request, written by an engine of its own."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        prompt: str,
        options: Options,
        chat: bool = False,
        ids: list[int] | None = None,
    ) -> None:
        """`ids` are those of the prompt, where it is read otherwise than as a text."""
        self.tokenizer, self.prompt, self.options = tokenizer, prompt, options
        self._given: str | list[int] = prompt if ids is None else ids
        if chat:
            from minillm.generation.conversation import Conversation

            talk = Conversation(tokenizer)
            talk.say(prompt)
            self._given, _ = talk.prompt(1)
            ends = (*options.stop_ids, *talk.ends)
            self.options = dataclasses.replace(options, stop_ids=ends)
        self._engine = Engine(model, tokenizer, max_batch=MOST_TOGETHER)
        self._console = Console(sys.stdout)
        self._shown = visible if self._console.isatty() else str
        self._coloured = self._console.isatty() and not os.environ.get("NO_COLOR")
        self._begin = time.perf_counter()
        self._first: float | None = None
        self._tokens = self._prompt_tokens = 0
        self._told: set[str] = set()
        self._open = False  # text was written, and no newline behind it

    def streamed(self) -> None:
        """Write one text as it comes; then, if asked for, its tokens."""
        ticket = self._engine.submit(self._given, self.options, on_notice=self._notice)
        shows = self.options.logprobs is not None
        if shows:
            require_list([ticket])
        self._prompt_tokens = ticket.prompt_tokens
        written = -ticket.prompt_tokens if self.options.echo else 0
        tokens: list[Logprob] = []
        try:
            for piece in self._engine.pieces(ticket):
                written += piece.id is not None
                if shows and piece.id is not None:
                    tokens.append(Logprob(piece.id, piece.logprob, piece.top or []))
                self._count(written)
                if piece.text:
                    self._open = True
                    self._console.write(self._colour(self._shown(piece.text), piece.logprob))
                if self._console.lost is not None:
                    break
        except BaseException:
            self._console.write("\n" * self._open)
            raise
        self._console.write("\n")
        self._open = False
        if shows:
            self._table(tokens)
        self._check_written()

    def listed(self) -> None:
        """Write several texts, each when it and those before it are whole."""
        found: Iterable[Completion] = self._engine.completed(self._given, self.options)
        count = self.options.n
        if self.options.beams > 1:  # which may find fewer
            found = list(found)
            count = len(found)
        for place, one in enumerate(found, 1):
            self._add(one)
            if count > 1:
                self._console.write(f"--- {place:,} of {count:,}\n")
            self._console.write(self._shown(one.text) + "\n")
            if one.logprobs is not None:
                self._table(one.logprobs)
            if self._console.lost is not None:
                break
        self._check_written()

    def as_json(self) -> None:
        """Print one object; of several texts a list in it."""
        found = self._completions()
        head = {
            "prompt": self.prompt,
            "prompt_tokens": found[0].prompt_tokens,
            "seed": found[0].seed,
        }
        texts = [self._as_dict(one) for one in found]
        several = {"completions": texts} if self.options.n > 1 else texts[0]
        print(json.dumps(head | several, ensure_ascii=False))

    @property
    def speed(self) -> str:
        """How fast it was; that of the tokens after the first, which waits for the prompt."""
        seconds = time.perf_counter() - self._begin
        read = counted(self._prompt_tokens, "token")
        text = f"{read} read, {self._tokens:,} written in {seconds:.2f} s"
        if self._first is None:
            return text
        text += f", the first after {self._first:.2f} s"
        if self._tokens < 2:
            return text
        return f"{text}, then {(self._tokens - 1) / max(seconds - self._first, 1e-9):.1f} tokens/s"

    def _completions(self) -> list[Completion]:
        found = self._engine.complete([self._given], self.options)
        for one in found:
            self._add(one)
        return found

    def _add(self, one: Completion) -> None:
        """Count a text, and say what it has to say for the first time."""
        self._prompt_tokens = one.prompt_tokens
        self._tokens += len(one.ids) - (one.prompt_tokens if self.options.echo else 0)
        for notice in one.notices:
            if notice not in self._told:
                self._told.add(notice)
                self._notice(notice)

    def _as_dict(self, one: Completion) -> dict[str, Any]:
        content: dict[str, Any] = {
            "text": one.text,
            "ids": one.ids,
            "finish_reason": one.finish_reason,
        }
        if one.logprobs is not None:
            content["logprobs"] = [
                self._token(token.id, token.logprob)
                | {"top": [self._token(id, value) for id, value in token.top]}
                for token in one.logprobs
            ]
        return content

    def _token(self, id: int, logprob: float | None) -> dict[str, Any]:
        return {"id": id, "token": self.tokenizer.token_of(id), "log_probability": logprob}

    def _table(self, tokens: Iterable[Logprob]) -> None:
        """A line for each token, and what could have been there."""
        self._console.write(
            f"{'id':>8}  {'token':<20} probability  log-probability  most probable\n"
        )
        for id, logprob, top in tokens:
            name = repr(self.tokenizer.token_of(id))
            others = "  ".join(
                f"{self.tokenizer.token_of(other)!r} {math.exp(value):.1%}" for other, value in top
            )
            value = f"{'':>11} {'':>16}"
            if logprob is not None:
                value = f"{math.exp(logprob):>11.2%} {logprob:>16.4f}"
            line = f"{id:>8}  {name:<20} {value}  {others}".rstrip()
            self._console.write(self._colour(line, logprob) + "\n")

    def _colour(self, text: str, logprob: float | None) -> str:
        if not self._coloured or logprob is None:
            return text
        code = next(code for least, code in COLOURS if math.exp(logprob) >= least)
        return f"\x1b[{code}m{text}\x1b[0m"

    def _count(self, tokens: int) -> None:
        """How many were written, now."""
        if tokens > 0 and self._first is None:
            self._first = time.perf_counter() - self._begin
        self._tokens = max(0, tokens)

    def _check_written(self) -> None:
        if self._console.full is not None:
            raise self._console.full

    def _notice(self, text: str) -> None:
        tell("\n" * self._open + f"minillm: note: {text}")

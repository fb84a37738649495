"""Requests that an Engine works on, and their texts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from minillm.generation.completions import Logprob, Piece, likelihood
from minillm.generation.options import Options
from minillm.generation.prompts import Prompt
from minillm.generation.reading import Reader, Reading
from minillm.generation.writing import Scribe
from minillm.tokenizers import Tokenizer


class Ticket:
    """A request: `done` once its last piece is out or it was cancelled; `error` if it failed.

    `notices` say what was done about a context that was full, and which options change nothing;
    `on_notice` is told each of them.
    """

    def __init__(
        self,
        prompt: Prompt,
        text: str | Sequence[int],
        options: Options,
        on_notice: Callable[[str], None] | None = None,
        scope: Hashable = "",
    ) -> None:
        self.prompt, self.text, self.options = prompt, text, options
        self.kind = options.cache_dtype, scope  # what was read of the prompt serves the same only
        self.prompt_tokens = len(prompt.ids if prompt.source is None else prompt.source)
        self.constraint: Any = None
        self.reused = 0  # tokens of the prompt that had been read before
        self.written = 0  # tokens that were drawn, those that end texts among them
        self.side_by_side = 1  # of its texts, as many as memory holds
        self.room = 0  # bytes that each of them may come to hold, where that is bounded
        self.error: Exception | None = None
        self.cancelled = False
        self.notices: list[str] = []
        self._on_notice = on_notice
        self.left = options.rows  # texts that are not at their end
        self.logprobs = options.logprobs
        if self.logprobs is None and options.best_of is not None:
            self.logprobs = 0  # the texts are compared by them
        self.echo: Echo | None = None
        for notice in (prompt.notice, options.unused):
            if notice:
                self.tell(notice)

    @property
    def done(self) -> bool:
        return self.cancelled or self.left == 0

    def before(self, size: int) -> int | None:
        """The last id of a prompt that its text goes on from, of a tokenizer of `size` ids."""
        goes_on = self.prompt.source is None and self.constraint is None
        last = self.prompt.ids[-1]
        return last if goes_on and last < size else None

    def tell(self, notice: str) -> None:
        """Note it, once."""
        if notice not in self.notices:
            self.notices.append(notice)
            if self._on_notice is not None:
                self._on_notice(notice)

    def echoed(self, index: int, tokenizer: Tokenizer) -> Iterator[Piece]:
        """The prompt in pieces, one a token; the first has its text, which is as it was given."""
        text = self.text if isinstance(self.text, str) else tokenizer.decode(self.prompt.ids)
        unread = (Logprob(id, None, []) for id in self.prompt.ids)
        for id, logprob, top in unread if self.echo is None else self.echo.found:
            yield Piece(self, index, text, id, logprob, top)
            text = ""


class Line:
    """One text of a request: its ids, and what becomes of them."""

    def __init__(self, ticket: Ticket, index: int, row: Any, scribe: Scribe) -> None:
        """`row` is a Row or a Drawn."""
        self.ticket, self.index, self.row, self.scribe = ticket, index, row, scribe
        self.over = False


class Echo:
    """How probable the tokens of a prompt are, read beside it: the text's own bits stay."""

    def __init__(self, reading: Reading, ids: Sequence[int], top: int) -> None:
        self._reading, self._ids, self._top = reading, ids, top
        self.found = [Logprob(ids[0], None, [])]

    def read(self, reader: Reader, ids: Sequence[int], size: int) -> None:
        """The next ids of the prompt, `size` of the tokenizer."""
        (rows,) = reader.read([(self._reading, ids)], every=True)
        for logits in rows[: len(self._ids) - len(self.found)]:
            self.found.append(likelihood(logits, self._ids[len(self.found)], self._top, size))

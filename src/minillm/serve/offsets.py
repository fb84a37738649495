"""Where the texts of tokens begin."""

from __future__ import annotations

import codecs

from minillm.generation import Ticket
from minillm.tokenizers import Tokenizer


class Offsets:
    """Places of the tokens of one text in its characters, in order.

    A token that goes on with a character begins where that character does. With echo the prompt's
    tokens come first.
    """

    def __init__(self, ticket: Ticket, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._decoder = tokenizer, tokenizer.stream()
        self._place = self._end = 0  # of what comes next; of the prompt
        ids = ticket.prompt.ids
        self._echoed = len(ids) if ticket.options.echo else 0
        if self._echoed:
            text = ticket.text if isinstance(ticket.text, str) else tokenizer.decode(ids)
            self._end = len(text)
        self._before = ticket.before(tokenizer.vocab_size)
        self._goes_on = False

    def next(self, id: int, ended: bool = False) -> int:
        """Of the next token, or of one that `ended` the text and is not in it."""
        if self._echoed:
            self._echoed -= 1
            return min(self._pushed(id), self._end)
        if not self._goes_on:
            self._goes_on, self._place = True, self._end
            self._decoder = self._tokenizer.stream()
            if self._before is not None:
                self._decoder.push(self._before)
        if ended:
            return self._place + len(self._decoder.flush())
        return self._pushed(id)

    def _pushed(self, id: int) -> int:
        """The place of an id, after what it ends of those before it."""
        text = self._decoder.push(id)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        own = decoder.decode(self._tokenizer.token_bytes(id))
        place = self._place + max(0, len(text) - len(own))
        self._place += len(text)
        return place

"""Text out of ids that arrive one at a time."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


class StreamDecoder:
    """Holds back the bytes of a character until the last of them has come.

    All that `push` and a final `flush` return, joined, is `tokenizer.decode(ids)`. Bytes that
    cannot become a character are U+FFFD at once.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._spelled = (
            {}
            if skip_special_tokens
            else {id: token.encode("utf-8") for token, id in tokenizer.special_tokens.items()}
        )
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """The characters that `id` completes, often ""; IndexError as in `Tokenizer.decode`."""
        piece = self._tokenizer.token_bytes(id)
        return self._decoder.decode(self._spelled.get(id, piece))

    def flush(self) -> str:
        """What is still held back, as U+FFFD; afterwards the decoder is new."""
        return self._decoder.decode(b"", final=True)

"""Text out of ids that arrive one at a time."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .vocabulary import Vocabulary


class StreamDecoder:
    """Holds back the bytes of a character until the last of them has come.

    All that `push` and a final `flush` return, joined, is `tokenizer.decode(ids)`. Bytes that
    cannot become a character are U+FFFD at once.
    """

    def __init__(self, vocabulary: Vocabulary, skip_special_tokens: bool = True) -> None:
        self._vocabulary, self._skip = vocabulary, skip_special_tokens
        self._begin()

    def _begin(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._first, self._strip = True, self._vocabulary.leading_spaces

    def push(self, id: int) -> str:
        """The characters that `id` completes, often ""; IndexError as in `Tokenizer.decode`."""
        data = self._vocabulary.text_bytes(id, self._first, self._skip)
        if data is None:
            return ""
        self._first = False
        while self._strip and data.startswith(b" "):
            data, self._strip = data[1:], self._strip - 1
        if data:
            self._strip = 0
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is still held back, as U+FFFD; afterwards the decoder is new."""
        held = self._decoder.decode(b"", final=True)
        self._begin()
        return held

"""Bytes as ids: nothing to train, any text encodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .byte_alphabet import ALPHABET
from .tokenizer import END_OF_TEXT, Tokenizer, check_text, default_eos, id_dtype
from .tokenizer_json import Document, bpe_document, byte_level, check_special_tokens


class ByteTokenizer(Tokenizer):
    """The ids of a text are the bytes of its UTF-8, 0 ... 255; control tokens follow."""

    kind = "byte"

    def __init__(
        self, special_tokens: Sequence[str] = (END_OF_TEXT,), eos: str | None = None
    ) -> None:
        """`eos` names the control token that ends a text; see `Tokenizer` for its default."""
        check_special_tokens(special_tokens)
        super().__init__(
            [*ALPHABET, *special_tokens],
            [bytes([byte]) for byte in range(256)] + [b""] * len(special_tokens),
            {token: 256 + index for index, token in enumerate(special_tokens)},
            eos or default_eos(special_tokens),
        )

    def encode_array(self, text: str) -> np.ndarray:
        check_text("encode", text)
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(id_dtype(self.vocab_size))

    def cut(self, text: str) -> int:
        return len(text)

    def to_dict(self) -> Document:
        return bpe_document(self._tokens, self.special_tokens, byte_level(False), byte_level(False))

"""A tokenizer as the metadata of a GGUF file, which llama.cpp encodes with."""

from __future__ import annotations

from typing import Any

import numpy as np

from .bpe import BPETokenizer
from .byte import ByteTokenizer
from .char import BYTE_TOKENS, CharTokenizer
from .tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "\u2581"  # stands for a space in the vocabularies of SentencePiece


def to_gguf(tokenizer: Tokenizer) -> dict[str, Any]:
    """The entries `tokenizer.ggml.*`; ValueError for a kind that llama.cpp does not have.

    Control tokens keep their ids and are never met in text unless a program asks for it.
    """
    if isinstance(tokenizer, BPETokenizer | ByteTokenizer):
        merges = tokenizer.merges if isinstance(tokenizer, BPETokenizer) else []
        metadata: dict[str, Any] = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        }
    elif isinstance(tokenizer, CharTokenizer):
        if SPACE in tokenizer.characters:
            raise ValueError(f"gguf: a vocabulary of characters with {SPACE!r} cannot be written")
        metadata = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": False}
    else:
        raise ValueError(f"gguf: a tokenizer of kind {tokenizer.kind!r} cannot be written")
    tokens = [tokenizer.id_to_token(id) for id in range(tokenizer.vocab_size)]
    types = [_type(token, tokenizer) for token in tokens]
    if isinstance(tokenizer, CharTokenizer):
        tokens = [SPACE if token == " " else token for token in tokens]
        metadata["tokenizer.ggml.scores"] = np.zeros(len(tokens), np.float32)
    metadata["tokenizer.ggml.tokens"] = tokens
    metadata["tokenizer.ggml.token_type"] = np.array(types, np.int32)
    for name in ("bos", "eos"):
        if tokenizer.eos_id is not None:
            metadata[f"tokenizer.ggml.{name}_token_id"] = tokenizer.eos_id
        metadata[f"tokenizer.ggml.add_{name}_token"] = False
    return metadata


def _type(token: str, tokenizer: Tokenizer) -> int:
    if token in tokenizer.special_tokens:
        return CONTROL
    return BYTE if isinstance(tokenizer, CharTokenizer) and token in BYTE_TOKENS else NORMAL

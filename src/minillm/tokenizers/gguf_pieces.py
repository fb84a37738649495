"""Tokenizers of SentencePiece, and of single characters, out of the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minillm.quantities import counted

from .char import CharTokenizer
from .gguf_roles import (
    BYTE,
    CONTROL,
    NORMAL,
    ROLE_KEYS,
    SPACE,
    UNUSED,
    Metadata,
    around_text,
    chat_template,
    roles_of,
)
from .sentencepiece import SentencePieceTokenizer
from .sentencepiece_model import BPE, UNIGRAM, PieceModel
from .tokenizer import Tokenizer


def pieces(metadata: Metadata, stored: Sequence[str], types: list[int]) -> Tokenizer:
    """SentencePiece, BPE ("llama") or Unigram ("t5"); Python alone encodes."""
    tokens = list(stored)
    bpe = metadata["tokenizer.ggml.model"] == "llama"
    scores = [float(one) for one in metadata.get("tokenizer.ggml.scores", ())]
    if len(scores) != len(tokens):
        raise ValueError(
            f"{counted(len(tokens), 'token')} and {len(scores)} scores, as many are needed"
        )
    if bpe and not any(scores) and all(len(t) == 1 for t, k in zip(tokens, types) if k == NORMAL):
        return _characters(metadata, tokens, types)
    defaults = {"unk": 0, "bos": 1, "eos": 2} if bpe else {"unk": 2, "eos": 1, "pad": 0}
    roles = roles_of(metadata, len(tokens), defaults)
    for role in ("bos", "eos", "unk"):
        if role in roles and types[roles[role]] == NORMAL and ROLE_KEYS[role] not in metadata:
            del roles[role]
    for role in {"bos", "eos"} & roles.keys():
        types[roles[role]] = CONTROL
    charsmap = np.asarray(metadata.get("tokenizer.ggml.precompiled_charsmap", ()))
    model = PieceModel(
        BPE if bpe else UNIGRAM,
        tokens,
        scores,
        types,
        roles,
        charsmap.astype(np.uint8).tobytes(),
        bool(metadata.get("tokenizer.ggml.add_space_prefix", bpe)),
        bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False)),
        bpe or BYTE in types,
    )
    usual = {"bos": bpe, "eos": not bpe}
    flags = [metadata.get(f"tokenizer.ggml.add_{role}_token", flag) for role, flag in usual.items()]
    tokenizer = SentencePieceTokenizer(model, around_text(roles, flags))
    tokenizer.chat_template = chat_template(metadata)
    return tokenizer


def _characters(metadata: Metadata, tokens: list[str], types: list[int]) -> CharTokenizer:
    """Pieces of one character each, which nothing merges: `to_gguf` writes them for characters."""
    while types and types[-1] == UNUSED:
        types = types[:-1]
    names = [" " if token == SPACE else token for token in tokens[: len(types)]]
    specials = {names[id]: id for id, type in enumerate(types) if type not in (NORMAL, BYTE)}
    eos = roles_of(metadata, len(names), {}).get("eos")
    return CharTokenizer(names, specials, None if eos is None else names[eos])

"""A tokenizer as the metadata of a GGUF file, which llama.cpp encodes with."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import models
from .char import BYTE_TOKENS, CharTokenizer
from .gguf_roles import BYTE, CONTROL, NORMAL, ROLE_KEYS, SPACE, USER_DEFINED
from .merging import pairs
from .reading import Document, short
from .sentencepiece import SentencePieceTokenizer
from .sentencepiece_model import BPE, PieceModel
from .split_patterns import NFC_NAMES, STEPS_BY_NAME, WHOLE_TOKEN_NAMES
from .tokenizer import Tokenizer


def to_gguf(tokenizer: Tokenizer) -> dict[str, Any]:
    """The entries `tokenizer.*`; ValueError for what llama.cpp does not encode as we do.

    Byte-level BPE, bytes (BPE without merges), SentencePiece and characters (pieces of it, none
    longer than one character) can be written.
    """
    if isinstance(tokenizer, CharTokenizer):
        metadata, tokens = _characters(tokenizer)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        metadata, tokens = _pieces(tokenizer.model), _tokens(tokenizer)
    else:
        metadata, tokens = _byte_level(tokenizer), _tokens(tokenizer)
    metadata["tokenizer.ggml.tokens"] = tokens
    if isinstance(tokenizer, SentencePieceTokenizer):
        types = tokenizer.model.types  # of the same numbers
    else:
        types = _types(tokenizer)
    metadata["tokenizer.ggml.token_type"] = np.array(types, np.int32)
    roles = tokenizer.role_ids
    if tokenizer.eos_id is not None:
        roles = {"bos": tokenizer.eos_id, "eos": tokenizer.eos_id} | roles
    metadata |= {key: roles[role] for role, key in ROLE_KEYS.items() if role in roles}
    metadata |= _around(tokenizer, roles)
    if tokenizer.chat_template is not None:
        metadata["tokenizer.chat_template"] = tokenizer.chat_template
    return metadata


def _tokens(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.id_to_token(id) for id in range(tokenizer.vocab_size)]


def _characters(tokenizer: CharTokenizer) -> tuple[dict[str, Any], list[str]]:
    if SPACE in tokenizer.characters:
        raise ValueError(f"gguf: a vocabulary of characters with {SPACE!r} cannot be written")
    tokens = [SPACE if token == " " else token for token in _tokens(tokenizer)]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.scores": np.zeros(len(tokens), np.float32),
    }
    return metadata, tokens


def _pieces(model: PieceModel) -> dict[str, Any]:
    if model.kind == BPE and not model.byte_fallback:
        raise ValueError("gguf: pieces of BPE without byte fallback cannot be written")
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama" if model.kind == BPE else "t5",
        "tokenizer.ggml.scores": np.array(model.scores, np.float32),
        "tokenizer.ggml.add_space_prefix": model.add_dummy_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": model.remove_extra_whitespaces,
    }
    if model.charsmap:
        charsmap = np.frombuffer(model.charsmap, np.uint8)
        metadata["tokenizer.ggml.precompiled_charsmap"] = charsmap
    return metadata


def _byte_level(tokenizer: Tokenizer) -> dict[str, Any]:
    if tokenizer.kind not in ("bpe", "byte"):
        raise ValueError(f"gguf: a tokenizer of kind {tokenizer.kind!r} cannot be written")
    document = tokenizer.to_dict()
    merges = pairs(models.merges_of(document["model"]))
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _split_name(document) if merges else "gpt-2",
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
    }
    normalizer = document.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        raise ValueError(f"gguf: normalizer {short(normalizer)} cannot be written")
    if (normalizer is not None) != (metadata["tokenizer.ggml.pre"] in NFC_NAMES):
        metadata["tokenizer.ggml.normalizer.nfc"] = normalizer is not None
    return metadata


def _split_name(document: Document) -> str:
    """The value of tokenizer.ggml.pre that means the pre-tokeniser of the document."""
    split = document.get("pre_tokenizer")
    steps = (split or {}).get("pretokenizers", [split])
    whole = bool(document["model"].get("ignore_merges"))
    for name, known in STEPS_BY_NAME.items():
        if whole == (name in WHOLE_TOKEN_NAMES) and _cuts(steps) == _cuts(known):
            return name
    raise ValueError(
        f"gguf: llama.cpp has no name for the pre_tokenizer {short(split)}"
        f"{' with ignore_merges' if whole else ''}"
    )


def _cuts(steps: list[Any]) -> list[Any]:
    """What of the steps decides where a text is cut."""
    return [
        {name: value for name, value in step.items() if name != "trim_offsets"}
        if isinstance(step, dict)
        else step
        for step in steps
    ]


def _types(tokenizer: Tokenizer) -> list[int]:
    types = [NORMAL] * tokenizer.vocab_size
    for entry in tokenizer.to_dict().get("added_tokens") or ():
        types[entry["id"]] = CONTROL if entry["special"] else USER_DEFINED
    for id in tokenizer.special_tokens.values():
        types[id] = CONTROL
    if isinstance(tokenizer, CharTokenizer) and tokenizer.byte_fallback:
        for id, token in enumerate(_tokens(tokenizer)):
            if token in BYTE_TOKENS:
                types[id] = BYTE
    return types


def _around(tokenizer: Tokenizer, roles: dict[str, int]) -> dict[str, bool]:
    """Whether control tokens stand around a text; only the beginning and end of one may."""
    ids = tokenizer.encode("", add_special_tokens=True)
    wanted = {"bos": ids[:1] == [roles.get("bos")], "eos": ids[-1:] == [roles.get("eos")]}
    if len(ids) == 1 and all(wanted.values()):
        wanted["bos"] = tokenizer.encode("a", add_special_tokens=True)[0] == ids[0]
        wanted["eos"] = not wanted["bos"]
    if len(ids) != sum(wanted.values()):
        raise ValueError(f"gguf: a tokenizer that puts {ids} around a text cannot be written")
    return {f"tokenizer.ggml.add_{role}_token": flag for role, flag in wanted.items()}

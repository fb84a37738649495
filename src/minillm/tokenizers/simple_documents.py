"""The kinds of tokenizer.json that minillm trains, which have classes of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import models
from .added_tokens import AddedToken
from .byte_alphabet import ALPHABET
from .reading import Document
from .tokenizer import Tokenizer
from .tokenizer_json import byte_level, check_special_tokens

_NOTHING = (None, "", False, 0.0)
_UNUSED_OF_MODEL = (
    "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges",
)  # fmt: skip


def simple(
    document: Document, ids: Mapping[str, int], added: list[AddedToken], eos: str | None
) -> Tokenizer | None:
    """The byte, character or byte-level BPE tokenizer that a document describes, or None.

    `ids` are those of all names, in order. Raises ValueError for a damaged one.
    """
    model = document["model"]
    if (
        models.kind_of(model) != "BPE"
        or not model.keys() <= models.BPE_PARTS
        or document.get("normalizer") is not None
        or any(model.get(part) not in _NOTHING for part in _UNUSED_OF_MODEL)
        or not all(token.special for token in added)
    ):
        return None
    specials = {token.content: token.id for token in sorted(added, key=lambda token: token.id)}
    check_special_tokens(list(specials))
    if document.get("pre_tokenizer") is None:
        return _char(document, model, list(ids), specials, eos)
    return _byte_level(document, model, ids, specials, eos)


def _char(
    document: Document,
    model: Document,
    tokens: list[str],
    specials: dict[str, int],
    eos: str | None,
) -> Tokenizer | None:
    from .char import FALLBACK_FUSE, FUSE, CharTokenizer

    fallback = bool(model.get("byte_fallback"))
    if (
        models.merges_of(model)
        or document.get("decoder") != (FALLBACK_FUSE if fallback else FUSE)
        or document.get("post_processor") is not None
    ):
        return None
    tokenizer = CharTokenizer(tokens, specials, eos)
    if tokenizer.byte_fallback != fallback:
        raise ValueError(f"model.byte_fallback is {fallback}, but the byte tokens say otherwise")
    return tokenizer


def _byte_level(
    document: Document,
    model: Document,
    ids: Mapping[str, int],
    specials: dict[str, int],
    eos: str | None,
) -> Tokenizer | None:
    parts = [document.get(part) for part in ("pre_tokenizer", "post_processor", "decoder")]
    if model.get("byte_fallback") or not all(map(_is_byte_level, parts)):
        return None
    split = parts[0] or {}
    if split.get("add_prefix_space", True):
        return None
    tokens = list(ids)
    if split.get("use_regex", True):
        spelled = set("".join(token for token in tokens if token not in specials))
        if not set(ALPHABET) <= set(tokens) or not spelled <= set(ALPHABET):
            return None
        from .bpe import BPETokenizer

        return BPETokenizer(tokens, models.merges_of(model), specials, eos)
    if models.merges_of(model) or tokens != [*ALPHABET, *specials]:
        return None
    from .byte import ByteTokenizer

    return ByteTokenizer(list(specials), eos)


def _is_byte_level(part: Any) -> bool:
    if part is None:
        return True
    known = isinstance(part, dict) and part.keys() <= byte_level(True).keys()
    flags = [value for name, value in part.items() if name != "type"] if known else [None]
    return all(isinstance(flag, bool) for flag in flags) and part.get("type") == "ByteLevel"

"""Tokenizers out of the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minillm.quantities import counted

from ..formats.gguf_strings import Strings
from .added_tokens import AddedToken
from .description import ROLES, Description
from .gguf_roles import (
    CONTROL,
    NORMAL,
    ROLE_KEYS,
    SPACE,
    UNKNOWN,
    USER_DEFINED,
    Metadata,
    around_text,
    chat_template,
    check_kinds,
    roles_of,
)
from .loading import from_document
from .merging import spaced
from .reading import Document, short
from .resolved_merges import resolved
from .split_patterns import BEGIN_NAMES, NFC_NAMES, STEPS_BY_NAME, WHOLE_TOKEN_NAMES
from .tokenizer import Tokenizer


def from_gguf(metadata: Metadata, backend: str | None = None) -> Tokenizer:
    """The tokenizer in the metadata of a GGUF file; `backend` as in `load`.

    Kinds (tokenizer.ggml.model): "gpt2", byte-level BPE that splits as tokenizer.ggml.pre says,
    "bert", WordPiece, "llama", SentencePiece's BPE, and "t5", its Unigram. The ids are those of
    the tokenizer the file was made from: qwen2 normalises to NFC, which llama.cpp leaves out.
    Raises ValueError naming what is missing, damaged or not supported.
    """
    try:
        check_kinds(metadata)
        kind = metadata.get("tokenizer.ggml.model")
        if kind not in _KINDS:
            raise ValueError(
                f"tokenizer.ggml.model {kind!r} is not supported, one of {', '.join(_KINDS)} is "
                "needed"
            )
        tokens = _strings(metadata, "tokens")
        types = np.asarray(metadata.get("tokenizer.ggml.token_type", ())).astype(np.int64).tolist()
        if types and len(types) != len(tokens):
            raise ValueError(
                f"{counted(len(tokens), 'token')} and {len(types)} types, as many are needed"
            )
        return _KINDS[kind](metadata, tokens, types or [NORMAL] * len(tokens), backend)
    except ValueError as error:
        raise ValueError(f"from_gguf: {error}") from None


def _strings(metadata: Metadata, part: str) -> Sequence[str]:
    values = metadata.get(f"tokenizer.ggml.{part}")
    if isinstance(values, Strings):
        return values
    if not isinstance(values, list) or not set(map(type, values)) <= {str}:
        raise ValueError(f"tokenizer.ggml.{part} is missing or no list of strings, it is needed")
    return values


def _gpt2(
    metadata: Metadata, tokens: Sequence[str], types: list[int], backend: str | None
) -> Tokenizer:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in STEPS_BY_NAME:
        raise ValueError(
            f"tokenizer.ggml.pre {short(name)} is not supported, one of "
            f"{', '.join(STEPS_BY_NAME)} is needed"
        )
    steps = STEPS_BY_NAME[name]
    nfc = metadata.get("tokenizer.ggml.normalizer.nfc", name in NFC_NAMES)
    vocab, merges = _vocabulary(metadata, tokens)
    document = _document(
        {"type": "NFC"} if nfc else None,
        steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps},
        steps[-1] | {"use_regex": True},
        {
            "type": "BPE",
            "ignore_merges": name in WHOLE_TOKEN_NAMES,
            "vocab": vocab,
            "merges": merges,
        },
    )
    roles = roles_of(metadata, len(tokens), {})
    begins = bool(metadata.get("tokenizer.ggml.add_bos_token", name in BEGIN_NAMES))
    ends = bool(metadata.get("tokenizer.ggml.add_eos_token", False))
    return _made(metadata, document, tokens, types, roles, (begins, ends), backend)


def _bert(
    metadata: Metadata, tokens: Sequence[str], types: list[int], backend: str | None
) -> Tokenizer:
    begin = metadata.get(ROLE_KEYS["bos"], 101)
    usual = {"unk": 100, "cls": begin, "sep": 102, "pad": 0, "mask": 103}
    roles = roles_of(metadata, len(tokens), usual)
    names = [
        token[len(SPACE) :]
        if token.startswith(SPACE)
        else token
        if type in (CONTROL, UNKNOWN) or (token.startswith("[") and token.endswith("]"))
        else f"##{token}"
        for token, type in zip(tokens, types)
    ]
    flags = {
        name: bool(metadata.get(f"tokenizer.ggml.normalizer.{name}", True))
        for name in ("lowercase", "strip_accents")
    }
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    document = _document(
        normalizer | flags,
        {"type": "BertPreTokenizer"},
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {
            "type": "WordPiece",
            "unk_token": names[roles["unk"]],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": _ids(names),
        },
    )
    document["post_processor"] = {
        "type": "BertProcessing",
        "sep": [names[roles["sep"]], roles["sep"]],
        "cls": [names[roles["cls"]], roles["cls"]],
    }
    return _made(metadata, document, names, types, roles, None, backend)


def _pieces(
    metadata: Metadata, tokens: Sequence[str], types: list[int], backend: str | None
) -> Tokenizer:
    from .gguf_pieces import pieces

    return pieces(metadata, tokens, types)


_KINDS = {"gpt2": _gpt2, "bert": _bert, "llama": _pieces, "t5": _pieces}


def _document(normalizer: Any, split: Document, decoder: Document, model: Document) -> Document:
    return {
        "version": "1.0",
        "normalizer": normalizer,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def _made(
    metadata: Metadata,
    document: Document,
    tokens: Sequence[str],
    types: list[int],
    roles: dict[str, int],
    flags: tuple[bool, bool] | None,
    backend: str | None,
) -> Tokenizer:
    """The tokenizer, with its added tokens, roles and template."""
    document["added_tokens"] = [
        AddedToken(tokens[id], id, special=types[id] != USER_DEFINED).entry()
        for id in np.flatnonzero(np.isin(types, (CONTROL, UNKNOWN, USER_DEFINED))).tolist()
    ]
    if flags is not None:
        document["post_processor"] = around_text(roles, flags).document(tokens)
    names = {role: tokens[roles[role]] for role in ROLES if role in roles}
    ends = [names[role] for role in ("bos", "eos") if role in names]
    about = Description({}, names, ends, chat_template(metadata))
    return from_document(document, about, backend)


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    ids = dict(zip(tokens, range(len(tokens))))
    if len(ids) < len(tokens):
        twice = next(token for id, token in enumerate(tokens) if ids[token] != id)
        raise ValueError(f"token {twice!r} occurs twice, each needs to be distinct")
    return ids


def _vocabulary(
    metadata: Metadata, tokens: Sequence[str]
) -> tuple[Mapping[str, int], Sequence[str]]:
    """Ids by token; merges, each two tokens with a space between."""
    merges = metadata.get("tokenizer.ggml.merges")
    if isinstance(tokens, Strings) and isinstance(merges, Strings):
        known = resolved(tokens, merges)
        if known is not None:
            return known
    return _ids(tokens), _merges(metadata)


def _merges(metadata: Metadata) -> list[str]:
    merges = list(_strings(metadata, "merges"))
    found = spaced(merges) if merges else merges
    if found is None:
        wrong = next(i for i, merge in enumerate(merges) if spaced([merge]) is None)
        raise ValueError(f"merge {wrong} is {merges[wrong]!r}, two tokens are needed")
    return found

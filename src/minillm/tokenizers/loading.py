"""Opening a tokenizer.json, with a clear word about what is damaged or not supported."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .bpe import BPETokenizer
from .byte import ByteTokenizer
from .byte_alphabet import ALPHABET
from .char import FALLBACK_FUSE, FUSE, CharTokenizer
from .tokenizer import CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from .tokenizer_json import Document, check_special_tokens

LARGEST_FILE = 1 << 28

_TOP = {
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
    "post_processor", "decoder", "model",
}  # fmt: skip
_MODEL = {
    "type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
    "byte_fallback", "ignore_merges", "vocab", "merges",
}  # fmt: skip


def load(path: str | os.PathLike[str]) -> Tokenizer:
    """Open a tokenizer.json, or the folder it lies in, saved by minillm or by others.

    Supported: byte-level BPE with GPT-2's pattern, bytes, characters with or without byte fallback.
    `eos_token` of a tokenizer_config.json beside it is heeded. Raises FileNotFoundError, and
    ValueError naming the file and the part of it that is damaged or not supported.
    """
    path = Path(path)
    if path.is_dir():
        path = path / TOKENIZER_FILE
    try:
        spec = _read_json(path)
        eos = _eos(path.with_name(CONFIG_FILE)) if path.name == TOKENIZER_FILE else None
        return _build(spec, eos)
    except (ValueError, TypeError) as error:
        raise ValueError(f"load: {path}: {error}") from None


def _read_json(path: Path) -> Document:
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"{path.name} has {size} bytes, at most {LARGEST_FILE} are accepted")
    try:
        spec = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON in UTF-8 ({error})") from None
    return _object(spec, path.name)


def _eos(config: Path) -> str | None:
    """The end-of-text token that tokenizer_config.json names, if there is one."""
    if not config.exists():
        return None
    token = _read_json(config).get("eos_token")
    if isinstance(token, dict):
        token = token.get("content")
    if token is not None and not isinstance(token, str):
        raise ValueError(f"eos_token of {config.name} is {_short(token)}, a string is needed")
    return token


def _build(spec: Document, eos: str | None) -> Tokenizer:
    model = _object(spec.get("model"), "model")
    _require_known(spec, _TOP, "")
    _require(spec, "version", (None, "1.0"))
    for part in ("normalizer", "truncation", "padding"):
        _require(spec, part, (None,))
    _require(model, "type", (None, "BPE"), "model.")
    _require_known(model, _MODEL, "model.")
    for part in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        _require(model, part, (None, "", False), "model.")
    tokens, special_tokens = _vocabulary(model, spec.get("added_tokens"))
    merges = _merges(model.get("merges"))
    if spec.get("pre_tokenizer") is None:
        return _char(spec, model, merges, tokens, special_tokens, eos)
    return _byte_level(spec, model, merges, tokens, special_tokens, eos)


def _char(
    spec: Document,
    model: Document,
    merges: list[tuple[str, str]],
    tokens: list[str],
    special_tokens: dict[str, int],
    eos: str | None,
) -> CharTokenizer:
    fallback = bool(model.get("byte_fallback"))
    _require(spec, "decoder", (FALLBACK_FUSE,) if fallback else (FUSE,))
    _require(spec, "post_processor", (None,))
    _require(model, "unk_token", (None,), "model.")
    if merges:
        raise ValueError("merges without a pre_tokenizer are not supported")
    tokenizer = CharTokenizer(tokens, special_tokens, eos)
    if tokenizer.byte_fallback != fallback:
        raise ValueError(f"model.byte_fallback is {fallback}, but the byte tokens say otherwise")
    return tokenizer


def _byte_level(
    spec: Document,
    model: Document,
    merges: list[tuple[str, str]],
    tokens: list[str],
    special_tokens: dict[str, int],
    eos: str | None,
) -> Tokenizer:
    _require(model, "byte_fallback", (None, False), "model.")
    for part in ("pre_tokenizer", "post_processor", "decoder"):
        if spec.get(part) is not None:
            _require(_object(spec[part], part), "type", ("ByteLevel",), f"{part}.")
    pre_tokenizer = spec["pre_tokenizer"]
    if pre_tokenizer.get("add_prefix_space", True):
        raise ValueError("pre_tokenizer with add_prefix_space is not supported")
    if pre_tokenizer.get("use_regex", True):
        return BPETokenizer(tokens, merges, special_tokens, eos)
    if merges:
        raise ValueError("merges with a pre_tokenizer that has no use_regex are not supported")
    if tokens != [*ALPHABET, *special_tokens]:
        raise ValueError("a byte vocabulary whose ids are not the bytes is not supported")
    return ByteTokenizer(list(special_tokens), eos)


def _vocabulary(model: Document, added: Any) -> tuple[list[str], dict[str, int]]:
    """Tokens by id and the control tokens among them."""
    vocab = dict(_object(model.get("vocab"), "model.vocab"))
    special_tokens: dict[str, int] = {}
    for entry in _list(added, "added_tokens"):
        token, id = _object(entry, "added token").get("content", ""), entry.get("id")
        if entry.get("special") is not True:
            raise ValueError(f"added token {_short(token)} is not special, which is not supported")
        check_special_tokens([token])
        if vocab.setdefault(token, id) != id:
            raise ValueError(
                f"added token {_short(token)} has id {id}, model.vocab says {vocab[token]}"
            )
        special_tokens[token] = id
    if not all(type(id) is int for id in vocab.values()):
        raise ValueError("model.vocab has ids that are not integers")
    tokens = sorted(vocab, key=vocab.__getitem__)
    wrong = next((i for i, token in enumerate(tokens) if vocab[token] != i), None)
    if wrong is not None:
        raise ValueError(
            f"model.vocab has {len(tokens)} tokens but not id {wrong}, ids must be 0 to "
            f"{len(tokens) - 1}"
        )
    return tokens, dict(sorted(special_tokens.items(), key=lambda item: item[1]))


def _merges(entries: Any) -> list[tuple[str, str]]:
    """Merges as pairs, from the older "a b" or the newer ["a", "b"]."""
    merges = []
    for rank, entry in enumerate(_list(entries, "model.merges")):
        parts = entry.split(" ") if isinstance(entry, str) else entry
        if (
            not isinstance(parts, list)
            or len(parts) != 2
            or not all(isinstance(part, str) and part for part in parts)
        ):
            raise ValueError(f"model.merges has {_short(entry)} at {rank}, two tokens are needed")
        merges.append((parts[0], parts[1]))
    return merges


def _require(spec: Document, part: str, accepted: tuple[Any, ...], prefix: str = "") -> None:
    if spec.get(part) not in accepted:
        raise ValueError(f"{prefix}{part} {_short(spec.get(part))} is not supported")


def _require_known(spec: Document, known: set[str], prefix: str) -> None:
    unknown = sorted(spec.keys() - known)
    if unknown:
        raise ValueError(f"{prefix}{unknown[0]} is not supported")


def _object(value: Any, name: str) -> Document:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {_short(value)}, an object is needed")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{name} is {_short(value)}, a list is needed")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

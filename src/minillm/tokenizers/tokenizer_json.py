"""The content of tokenizer.json, format version 1.0 of Hugging Face's `tokenizers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .reading import Document


def byte_level(use_regex: bool) -> Document:
    """The pre-tokenizer (or decoder) that works on GPT-2's byte alphabet."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def bpe_document(
    tokens: Sequence[str],
    special_tokens: Mapping[str, int],
    pre_tokenizer: Document | None,
    decoder: Document,
    merges: Iterable[tuple[str, str]] = (),
    byte_fallback: bool = False,
) -> Document:
    """A whole tokenizer.json whose model is BPE; the keys are in Hugging Face's order."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token, id in sorted(special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": byte_fallback,
            "ignore_merges": False,
            "vocab": {token: id for id, token in enumerate(tokens)},
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }


def check_special_tokens(special_tokens: Sequence[str]) -> None:
    """Raise TypeError or ValueError unless these are distinct, non-empty, valid Unicode strings."""
    if isinstance(special_tokens, str):
        raise TypeError(f"special_tokens is the str {special_tokens!r}, a sequence is needed")
    for token in special_tokens:
        if not isinstance(token, str):
            raise TypeError(f"special_tokens: {token!r} is {type(token).__name__}, str is needed")
        if not token or any("\ud800" <= character <= "\udfff" for character in token):
            raise ValueError(f"special_tokens: {token!r}, non-empty valid Unicode is needed")
    if len(set(special_tokens)) != len(special_tokens):
        raise ValueError(f"special_tokens: {list(special_tokens)}, distinct tokens are needed")

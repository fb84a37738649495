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


def whole_document(
    added_tokens: list[Document],
    normalizer: Document | None,
    pre_tokenizer: Document | None,
    post_processor: Document | None,
    decoder: Document | None,
    model: Document,
) -> Document:
    """A whole tokenizer.json; the keys are in Hugging Face's order."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    }


def added_token(content: str, id: int, special: bool) -> Document:
    """An entry of added_tokens that is found in a text as it is."""
    return {
        "id": id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def bpe_model(vocab: Mapping[str, int], merges: Iterable[object], **settings: object) -> Document:
    """The model of a tokenizer.json whose kind is BPE; `settings` are those that are not usual."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": dict(vocab),
        "merges": list(merges),
    }


def bpe_document(
    tokens: Sequence[str],
    special_tokens: Mapping[str, int],
    pre_tokenizer: Document | None,
    decoder: Document,
    merges: Iterable[tuple[str, str]] = (),
    byte_fallback: bool = False,
) -> Document:
    """A tokenizer.json that neither normalises nor adds anything, whose model is BPE."""
    by_id = sorted(special_tokens.items(), key=lambda item: item[1])
    return whole_document(
        [added_token(token, id, True) for token, id in by_id],
        None,
        pre_tokenizer,
        None,
        decoder,
        bpe_model(
            {token: id for id, token in enumerate(tokens)},
            [f"{left} {right}" for left, right in merges],
            byte_fallback=byte_fallback,
        ),
    )


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

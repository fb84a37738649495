"""The model of a tokenizer.json, BPE, WordPiece or Unigram: its parts, read and checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from .byte_alphabet import ALPHABET
from .merging import Merge, check_merges, fit, pairs, spaced
from .packed_vocabulary import PackedVocabulary
from .reading import (
    Document,
    Unsupported,
    a_list,
    a_string,
    an_object,
    require,
    require_known,
    settings,
    short,
)
from .resolved_merges import ResolvedMerges
from .unigram import byte_tokens

KINDS = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram"}
BPE_PARTS = {
    "type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
    "byte_fallback", "ignore_merges", "vocab", "merges",
}  # fmt: skip
WORD_PIECE_DEFAULTS: Document = {
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}


def kind_of(model: Document) -> str:
    """BPE, WordPiece or Unigram; files older than the field `type` are known by their parts."""
    kind = model.get("type")
    if kind is None:
        kind = "BPE" if "merges" in model else "Unigram" if "unk_id" in model else "WordPiece"
    if kind not in KINDS:
        raise ValueError(f"model.type {short(kind)} is not supported")
    return str(kind)


def vocabulary(model: Document) -> Mapping[str, int]:
    """The ids of a model's tokens; ValueError for a damaged vocabulary."""
    if isinstance(model.get("vocab"), PackedVocabulary):
        return model["vocab"]
    if kind_of(model) == "Unigram":
        entries = a_list(model.get("vocab"), "model.vocab")
        if not all(isinstance(entry, list) and len(entry) == 2 for entry in entries):
            raise ValueError("model.vocab has an entry that is not a token and its score")
        ids = {a_string(entry[0], "token of model.vocab"): id for id, entry in enumerate(entries)}
        if len(ids) < len(entries):
            raise ValueError("model.vocab has a token twice, each needs to be distinct")
        return ids
    vocab = an_object(model.get("vocab"), "model.vocab")
    if not set(map(type, vocab.values())) <= {int}:
        raise ValueError("model.vocab has ids that are not integers")
    return vocab


def merges_of(model: Document) -> Sequence[Merge]:
    """Merges as they are written, in the older form "a b" or the newer ["a", "b"]."""
    if isinstance(model.get("merges"), ResolvedMerges):
        return model["merges"]
    entries = a_list(model.get("merges"), "model.merges")
    found = spaced(entries)
    if found is not None:
        return found
    try:
        merges = pairs(entries)
        "".join(map("".join, merges))  # all are strings
        if all(map(all, merges)):
            return merges
    except (TypeError, ValueError):
        pass
    rank = next(rank for rank, entry in enumerate(entries) if not _is_pair(entry))
    raise ValueError(f"model.merges has {short(entries[rank])} at {rank}, two tokens are needed")


def unpacked(document: Document) -> Document:
    """The document of a tokenizer as JSON can hold it."""
    model = document["model"]
    vocab, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocab, PackedVocabulary):
        model = model | {"vocab": vocab.as_dict()}
    if isinstance(merges, ResolvedMerges):
        model = model | {"merges": list(merges)}
    return document | {"model": model}


def _is_pair(entry: Any) -> bool:
    parts = entry.split(" ") if isinstance(entry, str) else entry
    if not isinstance(parts, list) or len(parts) != 2:
        return False
    return all(isinstance(part, str) and part for part in parts)


def without(merges: Iterable[Merge], names: Collection[str]) -> list[tuple[str, str]]:
    """The merges that neither join nor make any of these tokens."""
    return [
        (left, right)
        for left, right in pairs(merges)
        if not (left in names or right in names or left + right in names)
    ]


def check(model: Document, specials: Collection[str], on_bytes: bool) -> None:
    """ValueError for what is damaged in a model, `Unsupported` for what Python alone does not do.

    `specials` are the control tokens; `on_bytes`: the tokens spell bytes in the byte alphabet.
    """
    {"WordPiece": _check_word_piece, "Unigram": _check_unigram, "BPE": _check_bpe}[kind_of(model)](
        model
    )
    if kind_of(model) != "BPE":
        return
    _check_merges(model, specials)
    special_bytes = on_bytes and (model.get("unk_token") or model.get("byte_fallback"))
    if special_bytes and not {*ALPHABET} <= vocabulary(model).keys() - {*specials}:
        raise Unsupported("model.unk_token or byte_fallback with byte tokens missing")


def _check_word_piece(model: Document) -> None:
    chosen = settings(model, "model", {"vocab": {}, **WORD_PIECE_DEFAULTS})
    _check_unknown(chosen)


def _check_unknown(model: Document) -> None:
    token = a_string(model["unk_token"], "model.unk_token")
    if token not in model["vocab"]:
        raise ValueError(f"model.unk_token {short(token)} is not in model.vocab")


def _check_unigram(model: Document) -> None:
    require_known(model, {"type", "vocab", "unk_id", "byte_fallback"}, "model.")
    if not {type(score) for _, score in model["vocab"]} <= {int, float}:
        raise ValueError("model.vocab has scores that are not numbers")
    unknown = model.get("unk_id")
    if unknown is not None and not (type(unknown) is int and 0 <= unknown < len(model["vocab"])):
        raise ValueError(f"model.unk_id {short(unknown)} is not in model.vocab")
    if model.get("byte_fallback") and byte_tokens(vocabulary(model)) is None:
        raise Unsupported("model.byte_fallback without all 256 byte tokens")


def _check_bpe(model: Document) -> None:
    require_known(model, BPE_PARTS, "model.")
    require(model, "dropout", (None, 0.0), "model.")
    for part in ("fuse_unk", "byte_fallback", "ignore_merges"):
        require(model, part, (None, True, False), "model.")
    if model.get("unk_token"):
        _check_unknown(model)
    for part in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(part):
            raise Unsupported(f"model.{part} {short(model[part])}")


def _check_merges(model: Document, specials: Collection[str]) -> None:
    merges, vocab = merges_of(model), model["vocab"]
    if not fit(vocab, merges):
        check_merges(vocab, without(merges, specials))

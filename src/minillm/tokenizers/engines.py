"""What finds the ids of a piece of text, made from the model of a tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from .byte_alphabet import ALPHABET, unspell
from .byte_merging import ByteMerger
from .character_merging import CharacterMerger, words
from .merging import PairTable
from .models import WORD_PIECE_DEFAULTS, kind_of, merges_of, vocabulary
from .packed_vocabulary import PackedVocabulary
from .reading import Document
from .unigram import Unigram, byte_tokens
from .vocabulary import Pieces
from .word_piece import WordPiece


class Engine(NamedTuple):
    """`lists` gives the ids of a piece; `words` cuts pieces further where that changes nothing."""

    lists: Callable[[str], Iterable[list[int]]]
    words: Callable[[str], list[str]] | None = None


def engine(
    model: Document, tokens: Sequence[str], specials: Collection[str], on_bytes: bool
) -> Engine:
    """The engine of a model that `models.check` has accepted; `tokens` are all names by id.

    `specials`, control tokens, are never made from text; `on_bytes` as there.
    """
    kind = kind_of(model)
    if kind == "BPE" and on_bytes:
        return _on_bytes(model, tokens, specials)
    ids = _without(vocabulary(model), specials)
    if kind == "WordPiece":
        return _word_piece(model, ids)
    if kind == "Unigram":
        scores = [score for _, score in model["vocab"]]
        byte_ids = byte_tokens(vocabulary(model)) if model.get("byte_fallback") else None
        return Engine(Unigram(ids, scores, model.get("unk_id"), byte_ids).lists)
    return _on_characters(model, ids, PairTable(tokens, ids, merges_of(model)))


def _without(ids: Mapping[str, int], specials: Collection[str]) -> dict[str, int]:
    return {token: id for token, id in ids.items() if token not in specials}


def _word_piece(model: Document, ids: Mapping[str, int]) -> Engine:
    chosen = WORD_PIECE_DEFAULTS | model
    return Engine(
        WordPiece(
            ids,
            model["vocab"][chosen["unk_token"]],
            chosen["continuing_subword_prefix"],
            chosen["max_input_chars_per_word"],
        ).lists
    )


def _on_bytes(model: Document, tokens: Sequence[str], specials: Collection[str]) -> Engine:
    ids = vocabulary(model)
    table = PairTable(tokens, ids, merges_of(model), specials)
    pieces = Pieces(lambda id: unspell(tokens[id]))
    if isinstance(ids, PackedVocabulary):
        longest = ids.longest
    else:
        longest = max(map(len, ids), default=0)
    byte_ids = [None if byte in specials else ids.get(byte) for byte in ALPHABET]
    whole = _without(ids, specials) if model.get("ignore_merges") else None
    merger = ByteMerger(pieces, longest, byte_ids, table, whole)
    return Engine(lambda piece: merger.blocks(piece.encode("utf-8")))


def _on_characters(model: Document, ids: Mapping[str, int], table: PairTable) -> Engine:
    unknown = vocabulary(model)[model["unk_token"]] if model.get("unk_token") else None
    merger = CharacterMerger(
        ids,
        table,
        unknown,
        bool(model.get("byte_fallback")),
        bool(model.get("fuse_unk")),
        bool(model.get("ignore_merges")),
    )
    return Engine(merger.lists, words if merger.separable else None)

"""The steps of SentencePiece: normalise a text, cut it into pieces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

from .character_merging import BYTE_TOKENS, MARK, MARK_INSIDE, words
from .merging import Pair, merge, merge_entry
from .precompiled import CharsMap
from .reading import Document
from .sentencepiece_model import BYTE, NORMAL, UNUSED, USER_DEFINED, PieceModel
from .tokenizer_json import bpe_model
from .unigram import Unigram

_SPACES = re.compile(" {2,}")


class Normalizer:
    """From a text to what is cut into pieces; user-defined pieces in it stay as they are."""

    def __init__(self, model: PieceModel) -> None:
        self._table = CharsMap(model.charsmap) if model.charsmap else None
        self._prefix = MARK if model.add_dummy_prefix else ""
        self._tidy = model.remove_extra_whitespaces
        self._users = _finder(model)
        replacements = self._table.single.values() if self._table else ()
        self._simple = (self._users is None and not any("  " in text for text in replacements)) or (
            self._table is None and not self._tidy
        )

    def __call__(self, text: str) -> str:
        if self._simple:
            new = self._table.replace(text) if self._table else text
            if self._tidy:
                new = _SPACES.sub(" ", new).lstrip(" ")
        else:
            new = "".join(self._tidied(self._chunks(text)))
        if not text or (self._tidy and not new.strip(" ")):
            return ""
        marked = self._prefix + new.replace(" ", MARK)
        return marked.rstrip(MARK) if self._tidy else marked

    def _chunks(self, text: str) -> Iterator[str]:
        """What becomes of the text step by step, from left to right."""
        at = 0
        while at < len(text):
            user = self._users.match(text, at) if self._users else None
            if user:
                yield user.group()
                at = user.end()
                continue
            data = text[at : at + 64].encode("utf-8")
            new, used = self._table.longest(data) if self._table else ("", 0)
            end = at + max(1, len(data[:used].decode("utf-8")))
            yield new if used else text[at:end]
            at = end

    def _tidied(self, chunks: Iterable[str]) -> Iterator[str]:
        """The chunks without spaces at their beginning where a space stands before them."""
        after_space = self._tidy
        for chunk in chunks:
            chunk = chunk.lstrip(" ") if after_space else chunk
            if chunk:
                after_space = self._tidy and chunk.endswith(" ")
                yield chunk


class BPEPieces:
    """Merges neighbours into the piece with the highest score, the leftmost among equals."""

    def __init__(self, model: PieceModel) -> None:
        self._model = model
        self._ids = _found_in_text(model)
        self._byte_ids = _byte_ids(model)
        self._symbols = {piece: id for piece, id in self._ids.items() if len(piece) == 1}
        self._characters: list[str] = []  # those without a piece, ids beyond the vocabulary
        self._users = _finder(model)
        if UNUSED in model.types:
            _ = self._table  # says what cannot be
        self.separable = (
            MARK in self._ids
            and self._users is None
            and not any(map(MARK_INSIDE.search, self._ids))
        )

    def stretches(self, text: str) -> list[str]:
        """The text cut where no merge crosses."""
        if self._users is not None:
            return [part for part in self._users.split(text) if part]
        return words(text) if self.separable else [text] if text else []

    def lists(self, text: str) -> Iterator[list[int]]:
        """The ids of a stretch."""
        if self._users is not None and self._users.fullmatch(text):
            yield [self._ids[text]]
            return
        ids: list[int] = []
        for id in merge([self._symbol(character) for character in text], self._table):
            if id < len(self._model.pieces):
                ids.append(id)
            else:
                ids += self._without_piece(self._characters[id - len(self._model.pieces)], ids)
        yield ids

    def document(self) -> Document:
        """The model of tokenizer.json: merges in the order of the scores."""
        pieces = self._model.pieces
        ordered = sorted(self._table, key=self._table.__getitem__)
        names = [*pieces, *self._characters]
        unknown = self._model.roles.get("unk")
        return bpe_model(
            {piece: id for id, piece in enumerate(pieces)},
            [[names[a], names[b]] for a, b in ordered if max(a, b) < len(pieces)],
            unk_token=None if unknown is None else pieces[unknown],
            fuse_unk=True,
            byte_fallback=self._byte_ids is not None,
        )

    @cached_property
    def _table(self) -> dict[Pair, int]:
        """Every pair of symbols that make a piece, by the rank of its score."""
        scores = self._model.scores
        ranks = {score: rank for rank, score in enumerate(sorted(set(scores), reverse=True))}
        pairs: dict[Pair, int] = {}
        for piece, id in self._ids.items():
            for middle in range(1, len(piece)):
                left, right = piece[:middle], piece[middle:]
                first, second = self._known(left), self._known(right)
                if first is not None and second is not None:
                    if self._model.types[id] == UNUSED:
                        raise ValueError(f"piece {piece!r} is unused, but can be made")
                    pairs[first, second] = merge_entry(ranks[scores[id]], id)
        return pairs

    def _known(self, text: str) -> int | None:
        return self._symbol(text) if len(text) == 1 else self._ids.get(text)

    def _symbol(self, character: str) -> int:
        """The id of a character; one beyond the vocabulary for a character without a piece."""
        id = self._symbols.get(character)
        if id is None:
            id = self._symbols[character] = len(self._model.pieces) + len(self._characters)
            self._characters.append(character)
        return id

    def _without_piece(self, character: str, before: list[int]) -> list[int]:
        if self._byte_ids is not None:
            return [self._byte_ids[byte] for byte in character.encode("utf-8")]
        unknown = self._model.roles.get("unk")
        if unknown is None:
            raise ValueError(f"encode: {character!r} has no piece, nor is there an unknown one")
        return [] if before[-1:] == [unknown] else [unknown]


class UnigramPieces:
    """The most probable way to cut a text into pieces; scores are added in 32 bits."""

    def __init__(self, model: PieceModel) -> None:
        self._model = model
        ids = _found_in_text(model)
        normal = [score for score, type in zip(model.scores, model.types) if type == NORMAL]
        scores = self._scores = list(model.scores)
        for piece, id in ids.items():
            if model.types[id] == USER_DEFINED:  # wins over normal pieces
                scores[id] = 0.1 * len(piece.encode("utf-8")) - 0.1
        unused = {piece: id for piece, id in ids.items() if model.types[id] != UNUSED}
        unknown = model.roles.get("unk")
        self.lists = Unigram(
            unused, scores, unknown, _byte_ids(model), min(normal, default=0.0), True
        ).lists

    def stretches(self, text: str) -> list[str]:
        """The whole text: the sums go on from its beginning to its end."""
        return [text] if text else []

    def document(self) -> Document:
        """The model of tokenizer.json."""
        entries = [[piece, score] for piece, score in zip(self._model.pieces, self._scores)]
        return {
            "type": "Unigram",
            "unk_id": self._model.roles.get("unk"),
            "vocab": entries,
            "byte_fallback": self._model.byte_fallback,
        }


def _found_in_text(model: PieceModel) -> dict[str, int]:
    return {
        piece: id
        for id, (piece, type) in enumerate(zip(model.pieces, model.types))
        if type in (NORMAL, USER_DEFINED, UNUSED)
    }


def _byte_ids(model: PieceModel) -> list[int] | None:
    """The pieces of the 256 bytes, None where characters are not to become bytes."""
    if not model.byte_fallback:
        return None
    ids = {
        piece: id for id, (piece, type) in enumerate(zip(model.pieces, model.types)) if type == BYTE
    }
    missing = [token for token in BYTE_TOKENS if token not in ids]
    if missing:
        raise ValueError(f"{len(missing)} byte pieces are missing, the first is {missing[0]!r}")
    return [ids[token] for token in BYTE_TOKENS]


def _finder(model: PieceModel) -> re.Pattern[str] | None:
    """Finds user-defined pieces, the longest first, and keeps them when it splits."""
    users = [piece for piece, type in zip(model.pieces, model.types) if type == USER_DEFINED]
    if not users:
        return None
    return re.compile(f"({'|'.join(map(re.escape, sorted(users, key=len, reverse=True)))})")

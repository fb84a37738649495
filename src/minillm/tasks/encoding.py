"""Texts, words and pairs of texts as rows of ids, and rows as batches, as an encoder takes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy

from minillm.models.embedding import alike, padded
from minillm.tensor import no_grad
from minillm.tokenizers import Tokenizer

PART = re.compile(r"[^\W_]+|[\W_]")  # of what stands between two spaces
WORD = re.compile(r"\S+")
WORDS_KEPT = 1 << 16


class Span(NamedTuple):
    """A part of a text, from `start` to before `end`, and its ids."""

    start: int
    end: int
    ids: list[int]


class Row(NamedTuple):
    """Ids of one text or two, the segment of each, and which example they are (a part of).

    `places` is what stands where: for each id a word, a span or None.
    """

    ids: list[int]
    segments: list[int]
    example: int
    places: Sequence[Any] = ()


class Batch(NamedTuple):
    """Rows padded on the right: ids and mask (B, T), segments (B, T) or None."""

    ids: numpy.ndarray
    mask: numpy.ndarray
    segments: numpy.ndarray | None


class Encoding:
    """How texts become rows of at most `length` ids for one model and its tokenizer."""

    def __init__(self, tokenizer: Tokenizer, config: Any, length: int | None = None) -> None:
        self.tokenizer, self.config = tokenizer, config
        context = config.context
        if length is not None and not 4 <= length <= context:
            raise ValueError(f"max-length: {length}, 4 to {context} (the model's) is needed")
        self.length = context if length is None else length
        self.ids_of = lru_cache(WORDS_KEPT)(lambda word: tuple(tokenizer.encode(word)))

    @cached_property
    def space(self) -> str:
        """What a word takes with it when it is not the first: a space, unless that is dropped."""
        encode = self.tokenizer.encode
        return "" if encode("a b") == encode("a") + encode("b") else " "

    def words(self, words: Sequence[str]) -> list[list[int]]:
        """The ids of each word as it stands in a text of these words."""
        return [
            list(self.ids_of(word if not place else self.space + word))
            for place, word in enumerate(words)
        ]

    def spans(self, text: str) -> list[Span]:
        """The text in the smallest spans whose ids together are those of its words.

        Words are cut at punctuation and symbols where the tokenizer cuts them there as well.
        """
        found = []
        for word in WORD.finditer(text):
            begin = word.start()
            space = self.space if begin else ""
            whole = self.ids_of(space + word[0])
            parts = [(part.start(), part.end()) for part in PART.finditer(word[0])]
            ids = [
                self.ids_of((space if not start else "") + word[0][start:end])
                for start, end in parts
            ]
            if sum(ids, ()) != whole:
                parts, ids = [(0, len(word[0]))], [whole]
            found += [
                Span(begin + start, begin + end, list(own))
                for (start, end), own in zip(parts, ids, strict=True)
            ]
        return found

    def text(self, text: str, example: int) -> tuple[Row, int]:
        """The row of one text, and how many ids had to be cut off its end."""
        ids = self.tokenizer.encode(text)
        room = self.length - len(self.tokenizer.around([]))
        row = self.tokenizer.around(ids[:room])
        return Row(row, [0] * len(row), example), max(0, len(ids) - room)

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Rows of any lengths as arrays."""
        pad = self.config.pad_token_id or 0
        ids, mask = padded([row.ids for row in rows], pad)
        segments = None
        if self.config.type_vocab_size > 1:
            segments = padded([row.segments for row in rows], 0)[0]
        return Batch(ids, mask, segments)

    def outputs(self, model: Any, rows: Sequence[Row], size: int = 32) -> list[numpy.ndarray]:
        """What the model gives for each row, rows of like length together; padding is cut off."""
        found: list[Any] = [None] * len(rows)
        for places in alike([len(row.ids) for row in rows], size):
            batch = self.batch([rows[place] for place in places])
            with no_grad():
                out = model(*batch).numpy()
            for place, values in zip(places, out, strict=True):
                whole = values.ndim == 1
                found[place] = values.copy() if whole else values[: len(rows[place].ids)].copy()
        return found

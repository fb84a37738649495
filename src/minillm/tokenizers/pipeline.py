"""Tokenizers that a tokenizer.json describes: normalise, split, look up, put tokens around."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np

from minillm.quantities import counted

from . import models, normalizers, pre_tokenizers
from .added_tokens import AddedToken, Finder, read_added_tokens
from .decoders import decoder
from .engines import Engine, engine
from .library import Library
from .packed_vocabulary import PackedVocabulary
from .piece_cache import PieceCache
from .post_processors import template
from .pre_tokenizers import is_byte_level
from .reading import Document, an_object, require, require_known
from .tokenizer import END_OF_TEXT, Tokenizer, check_text, id_dtype
from .unicode_classes import LETTERS, NUMBERS, character_class

PARTS = {
    "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
    "post_processor", "decoder", "model",
}  # fmt: skip
_STRETCH = 1 << 16


class PipelineTokenizer(Tokenizer):
    """A tokenizer of tokenizer.json: BPE, WordPiece or Unigram with all that stands around them.

    Truncation and padding, which a file may ask for, are never done here. Two providers encode, the
    `tokenizers` library and Python with NumPy; the ids are the same, but what Python does not do
    raises ValueError with the hint to install the library.
    """

    def __init__(
        self,
        document: Document,
        eos: str | None = None,
        specials: Collection[str] = (),
        backend: str = "python",
        known: tuple[Mapping[str, int], list[AddedToken]] | None = None,
    ) -> None:
        """`document` is the content of tokenizer.json; `specials` name further control tokens.

        `known` is what `all_tokens` gave of them, if it was asked already. Raises ValueError naming
        the part that is damaged or not supported.
        """
        require_known(document, PARTS)
        require(document, "version", (None, "1.0"))
        model = an_object(document.get("model"), "model")
        self.kind = models.KINDS[models.kind_of(model)]
        self.backend = backend
        if known is None:
            added = read_added_tokens(document.get("added_tokens"))
            known = all_tokens(models.vocabulary(model), added, specials)
        tokens, self._added = known
        special_tokens = {t.content: t.id for t in sorted(self._added, key=_id) if t.special}
        super().__init__(
            tokens,
            (),
            special_tokens,
            eos or (END_OF_TEXT if END_OF_TEXT in special_tokens else None),
            decoder(document.get("decoder")),
            template(document.get("post_processor")),
        )
        entries = [token.entry() for token in self._added]
        parts = {"truncation": None, "padding": None, "added_tokens": entries}
        self._document = {"version": "1.0", **document, **parts}
        dtype = id_dtype(self.vocab_size)
        self._provider: Library | _Reference = (
            Library(self.to_dict(), dtype) if backend == "tokenizers" else self._reference
        )

    def encode_array(self, text: str) -> np.ndarray:
        check_text("encode", text)
        return self._encoded(text, False)

    def cut(self, text: str) -> int:
        gap = _gap().match(text) if self._cuttable else None
        return gap.end() if gap else 0

    def to_dict(self) -> Document:
        return models.unpacked(self._document)

    def _encode_with_specials(self, text: str) -> list[int]:
        check_text("encode", text)
        ids: list[int] = self._encoded(text, True).tolist()
        return ids

    def encode_parts(self, parts: Sequence[str], begins: bool = True) -> list[int]:
        flags = {token.content: token for token in self._added}
        ids: list[int] = []
        for index, part in enumerate(parts):
            if index % 2:
                ids.append(self.special_tokens[part])
                continue
            if index and flags[parts[index - 1]].rstrip:
                part = part.lstrip()
            if index + 1 < len(parts) and flags[parts[index + 1]].lstrip:
                part = part.rstrip()
            first = begins and "".join(parts[:index]) == ""
            packed = self._reference.encode_stretch(part, False, first)
            ids += np.frombuffer(packed, id_dtype(self.vocab_size)).tolist()
        return ids

    def _encoded(self, text: str, specials: bool) -> np.ndarray:
        provider = self._reference if self._provider.confused_by(text) else self._provider
        stretches = list(self._stretches(text)) if not specials else [text]
        return np.frombuffer(provider.encode(stretches, specials), id_dtype(self.vocab_size))

    def _stretches(self, text: str) -> Iterator[str]:
        """The text cut where that changes no id."""
        start, width = 0, _STRETCH
        while len(text) - start > width:
            end = self.cut(text[start : start + width])
            if end:
                yield text[start : start + end]
                start, width = start + end, _STRETCH
            else:
                width *= 2
        yield text[start:]

    @cached_property
    def _reference(self) -> _Reference:
        return _Reference(self._document, self._tokens, self._added, id_dtype(self.vocab_size))

    @cached_property
    def _cuttable(self) -> bool:
        spec = self._document
        return (
            normalizers.cut_is_safe(spec.get("normalizer"))
            and pre_tokenizers.cut_is_safe(spec.get("pre_tokenizer"))
            and all(
                token.special or not (token.lstrip or token.rstrip or _gap().match(token.content))
                for token in self._added
            )
        )


class _Reference:
    """Encodes with Python alone: this is the definition of what the ids are."""

    def __init__(
        self,
        document: Document,
        tokens: Sequence[str],
        added: list[AddedToken],
        dtype: np.dtype[Any],
    ) -> None:
        split = document.get("pre_tokenizer")
        self._document, self._tokens, self._dtype = document["model"], tokens, dtype
        self._on_bytes = models.kind_of(self._document) == "BPE" and is_byte_level(split)
        normalizer = normalizers.normalizer(document.get("normalizer"))
        self._split = pre_tokenizers.pre_tokenizer(split, self._on_bytes)
        self._specials = {token.content for token in added if token.special}
        models.check(self._document, self._specials, self._on_bytes)
        self._finders = {flag: Finder(added, normalizer, flag) for flag in (False, True)}
        self._ids = {token.id: np.array([token.id], dtype).tobytes() for token in added}

    @cached_property
    def _engine(self) -> Engine:
        return engine(self._document, self._tokens, self._specials, self._on_bytes)

    @cached_property
    def _cache(self) -> PieceCache:
        return PieceCache(self._engine.lists, self._dtype)

    def confused_by(self, text: str) -> bool:
        """No text is."""
        return False

    def encode(self, stretches: list[str], specials: bool) -> bytes:
        """The packed ids of the stretches of a text; with `specials` control tokens are found."""
        return b"".join([self.encode_stretch(stretch, specials) for stretch in stretches])

    def encode_stretch(self, text: str, specials: bool, begins: bool = True) -> bytes:
        """The packed ids of one stretch, which `begins` the text or does not."""
        packed = bytearray()
        for segment, id in self._finders[specials].segments(text):
            if id is not None:
                packed += self._ids[id]
            elif segment:
                pieces = self._split([segment], begins)
                if self._engine.words:
                    pieces = [word for piece in pieces for word in self._engine.words(piece)]
                packed += b"".join(map(self._cache.__getitem__, pieces))
            begins = False
        return bytes(packed)


@cache
def _gap() -> re.Pattern[str]:
    """The last letter or number with a space behind it.

    U+0D4E forms one grapheme with what follows.
    """
    known = character_class(LETTERS, 0xFFFF) + character_class(NUMBERS, 0xFFFF)
    return re.compile(f"(?s:.*)[{known}](?<!\u0d4e)(?= )")


def _id(token: AddedToken) -> int:
    return token.id


def all_tokens(
    vocab: Mapping[str, int], added: list[AddedToken], specials: Collection[str]
) -> tuple[Mapping[str, int], list[AddedToken]]:
    """The ids of tokens in order, and the added tokens.

    Tokens of the model that `specials` name, control tokens, are among the added. Raises
    ValueError for ids that are not 0, 1, ... n - 1 or not those of the model.
    """
    more: dict[str, int] = {}
    for token in added:
        if token.content not in vocab:
            more.setdefault(token.content, token.id)
    vocab = {**vocab, **more} if more else vocab
    by_content = {token.content: token for token in added}
    for token in added:
        if vocab[token.content] != token.id:
            raise ValueError(
                f"added token {token.content!r} has id {token.id}, model.vocab says "
                f"{vocab[token.content]}"
            )
    for name in specials:
        if name in vocab:
            token = by_content.get(name, AddedToken(name, vocab[name]))
            by_content[name] = token._replace(special=True)
    if isinstance(vocab, PackedVocabulary) or list(vocab.values()) == list(range(len(vocab))):
        return vocab, list(by_content.values())
    tokens = sorted(vocab, key=vocab.__getitem__)
    wrong = next((i for i, token in enumerate(tokens) if vocab[token] != i), None)
    if wrong is not None:
        raise ValueError(
            f"model.vocab has {counted(len(tokens), 'token')} but not id {wrong}, ids must be 0 to "
            f"{len(tokens) - 1}"
        )
    return {token: vocab[token] for token in tokens}, list(by_content.values())

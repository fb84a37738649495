"""Tokens that are found in the text itself, before it is normalised and split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .normalizers import Normalizer
from .reading import Document, a_list, a_string, an_object, require_known, short
from .tokenizer_json import check_special_tokens
from .unicode_classes import WHITE_SPACE, word_class

Segment = tuple[str, int | None]  # text, and the id where it is a token

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class AddedToken(NamedTuple):
    """An entry of added_tokens. `special` ones are control tokens."""

    content: str
    id: int
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False

    def entry(self) -> Document:
        """As it stands in tokenizer.json."""
        fields = self._asdict()
        return {"id": fields.pop("id"), **fields}


def read_added_tokens(entries: Any) -> list[AddedToken]:
    """The added tokens of a tokenizer.json; ValueError for damaged ones."""
    tokens = []
    for entry in a_list(entries, "added_tokens"):
        fields = an_object(entry, "added token")
        require_known(fields, {"id", "content", *_FLAGS}, "added token ")
        content, id = a_string(fields.get("content"), "added token"), fields.get("id")
        check_special_tokens([content])
        if type(id) is not int or not 0 <= id < 2**32:
            raise ValueError(f"added token {short(content)} has id {short(id)}, none is possible")
        flags = [fields.get(flag, False) for flag in _FLAGS]
        if not all(type(flag) is bool for flag in flags):
            raise ValueError(f"added token {short(content)} has flags that are not true or false")
        tokens.append(AddedToken(content, id, *flags))
    return tokens


class Finder:
    """Cuts a text at added tokens, as Hugging Face's `tokenizers` does.

    Those that are not `normalized` are found in the text as it is, the others in what the
    normaliser makes of the rest. The leftmost match wins, the longest among equals. Control tokens
    are ordinary text unless `specials`.
    """

    def __init__(
        self, tokens: Iterable[AddedToken], normalizer: Normalizer, specials: bool
    ) -> None:
        tokens = [token for token in tokens if token.content]
        self._normalizer = normalizer
        self._raw = _Matcher({t.content: t for t in tokens if not t.normalized}, specials)
        later = {normalizer(t.content): t for t in tokens if t.normalized}
        self._normalized = _Matcher({text: t for text, t in later.items() if text}, specials)

    def segments(self, text: str) -> Iterator[Segment]:
        """The text in order: normalised stretches and tokens."""
        for stretch, id in self._raw.segments(text):
            if id is not None:
                yield stretch, id
            else:
                yield from self._normalized.segments(self._normalizer(stretch))


class _Matcher:
    """Finds tokens by the text they are spelled with."""

    def __init__(self, tokens: dict[str, AddedToken], specials: bool) -> None:
        self._tokens = {text: t for text, t in tokens.items() if specials or not t.special}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def segments(self, text: str) -> Iterator[Segment]:
        at = 0
        for match in self._pattern.finditer(text) if self._tokens else ():
            token = self._tokens[match.group()]
            start, end = match.span()
            if token.single_word and _inside_word(text, start, end):
                continue
            while token.lstrip and start > at and text[start - 1] in WHITE_SPACE:
                start -= 1
            while token.rstrip and end < len(text) and text[end] in WHITE_SPACE:
                end += 1
            if at < start:
                yield text[at:start], None
            yield text[start:end], token.id
            at = end
        if at < len(text):
            yield text[at:], None


def _inside_word(text: str, start: int, end: int) -> bool:
    word = re.compile(f"[{word_class()}]")
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    return bool(word.match(before) or word.match(after))

"""The normalisers of tokenizer.json: what happens to a text before it is split."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, cast

from .patterns import Pattern
from .precompiled import grapheme_normalizer
from .reading import Document, Unsupported, a_list, a_string, an_object, settings, short
from .unicode_classes import WHITE_SPACE, character_class
from .unicode_older import (
    ACCENTS,
    BERT_ACCENTS,
    BERT_CONTROLS,
    IDEOGRAPHS,
    NEW_CAPITALS,
    NOT_NORMALISED,
)

Normalizer = Callable[[str], str]

_BERT_SPACES = re.compile("[\t\n\r\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")


def normalizer(spec: Any) -> Normalizer:
    """The function that a normaliser of tokenizer.json stands for.

    Raises ValueError for a damaged one and `Unsupported` for a kind that is not done here.
    """
    if spec is None:
        return str
    spec = an_object(spec, "normalizer")
    kind = spec.get("type")
    if kind not in _KINDS:
        raise Unsupported(f"normalizer.type {short(kind)}")
    return _KINDS[kind](spec)


def cut_is_safe(spec: Any) -> bool:
    """Whether a text may be cut between a letter or number and a space before it is normalised."""
    if spec is None:
        return True
    if spec["type"] == "Sequence":
        return all(map(cut_is_safe, spec["normalizers"]))
    if spec["type"] == "Replace":
        return spec["pattern"] in ({"String": " "}, {"Regex": " {2,}"})
    return spec["type"] not in ("Strip", "Prepend")


def _sequence(spec: Document) -> Normalizer:
    steps = [normalizer(step) for step in a_list(spec.get("normalizers"), "normalizers")]

    def run(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return run


def _unicode_form(spec: Document) -> Normalizer:
    settings(spec, "normalizer", {})
    return lambda text: unicode_form(spec["type"], text)


def unicode_form(form: str, text: str) -> str:
    """`text` in NFC, NFD, NFKC or NFKD of Unicode 12.0."""
    name = cast(Literal["NFC", "NFD", "NFKC", "NFKD"], form)
    if text.isascii():
        return text
    return "".join(
        [
            run if index % 2 else unicodedata.normalize(name, run)
            for index, run in enumerate(_members(NOT_NORMALISED).split(text))
        ]
    )


def lower(text: str) -> str:
    """Each character in lower case by itself, so a final sigma is any other."""
    if text.isascii():
        return text.lower()
    return text.translate(NEW_CAPITALS).replace("Σ", "σ").lower()


def _lowercase(spec: Document) -> Normalizer:
    settings(spec, "normalizer", {})
    return lower


def _strip_accents(spec: Document) -> Normalizer:
    settings(spec, "normalizer", {})
    return lambda text: _members(ACCENTS).sub("", text)


def _bert(spec: Document) -> Normalizer:
    """Source: Devlin et al. 2018, google-research/bert `tokenization.py`."""
    flags = {"clean_text": True, "handle_chinese_chars": True, "lowercase": True}
    chosen = settings(spec, "normalizer", {**flags, "strip_accents": None})
    clean, spread, lowercase, strip = (
        chosen[name]
        for name in ("clean_text", "handle_chinese_chars", "lowercase", "strip_accents")
    )
    if strip not in (None, True, False):
        raise ValueError(f"normalizer.strip_accents {short(strip)} is not supported")
    strip = lowercase if strip is None else strip

    def run(text: str) -> str:
        if clean:
            text = _BERT_SPACES.sub(" ", _members(BERT_CONTROLS).sub("", text))
        if spread and not text.isascii():
            text = _members(IDEOGRAPHS).sub(r" \1 ", text)
        if strip and not text.isascii():
            text = _members(BERT_ACCENTS).sub("", unicode_form("NFD", text))
        return lower(text) if lowercase else text

    return run


def _replace(spec: Document) -> Normalizer:
    chosen = settings(spec, "normalizer", {"pattern": {}, "content": ""})
    return replacement(chosen["pattern"], chosen["content"])


def replacement(pattern: Document, content: str) -> Normalizer:
    """Put `content` in the place of every match of {"String": ...} or {"Regex": ...}."""
    match pattern:
        case {"String": str(found), **rest} if found and not rest:
            return lambda text: text.replace(found, content)
        case {"Regex": str(source), **rest} if not rest:
            expression = Pattern(source)
            return lambda text: expression.of(text).sub(lambda _: content, text)
    raise ValueError(f"pattern {short(pattern)} is not supported")


def _prepend(spec: Document) -> Normalizer:
    prefix = a_string(settings(spec, "normalizer", {"prepend": ""})["prepend"], "prepend")
    return lambda text: prefix + text if text else text


def _strip(spec: Document) -> Normalizer:
    chosen = settings(spec, "normalizer", {"strip_left": True, "strip_right": True})

    def run(text: str) -> str:
        text = text.lstrip(WHITE_SPACE) if chosen["strip_left"] else text
        return text.rstrip(WHITE_SPACE) if chosen["strip_right"] else text

    return run


def _precompiled(spec: Document) -> Normalizer:
    chosen = settings(spec, "normalizer", {"precompiled_charsmap": ""})
    return grapheme_normalizer(chosen["precompiled_charsmap"])


@cache
def _members(table: str) -> re.Pattern[str]:
    return re.compile(f"([{character_class(table, 0x10FFFF)}])")


_KINDS: dict[str, Callable[[Document], Normalizer]] = {
    "Sequence": _sequence,
    "NFC": _unicode_form,
    "NFD": _unicode_form,
    "NFKC": _unicode_form,
    "NFKD": _unicode_form,
    "Lowercase": _lowercase,
    "StripAccents": _strip_accents,
    "BertNormalizer": _bert,
    "Replace": _replace,
    "Prepend": _prepend,
    "Strip": _strip,
    "Precompiled": _precompiled,
}

"""The pre-tokenisers of tokenizer.json: where a text is cut before the model sees it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from .byte_alphabet import spell
from .patterns import Pattern
from .reading import Document, Unsupported, a_list, a_string, an_object, settings, short
from .split_patterns import SEPARATE
from .splitting import split
from .unicode_classes import NUMBERS, WHITE_SPACE, character_class, last_point, word_class
from .unicode_older import BERT_PUNCTUATION, NEW_DIGITS

# From pieces of text to smaller ones; the flag says whether the first begins where the text does.
PreTokenizer = Callable[[list[str], bool], list[str]]
Span = tuple[str, bool]  # a stretch of a piece, and whether it is what was looked for


def pre_tokenizer(spec: Any, bytes_follow: bool = False) -> PreTokenizer:
    """The function that a pre-tokeniser of tokenizer.json stands for.

    With `bytes_follow` the model takes the bytes of the text: a last ByteLevel then leaves the text
    as it is, where otherwise it spells it in the byte alphabet. Raises ValueError for a damaged
    one and `Unsupported` for a kind that is not done here.
    """
    steps = list(_steps(spec))
    functions = []
    for index, step in enumerate(steps):
        kind = step.get("type")
        if kind not in _KINDS:
            raise Unsupported(f"pre_tokenizer.type {short(kind)}")
        if kind == "ByteLevel" and index < len(steps) - 1:
            raise Unsupported("pre_tokenizer ByteLevel that is not the last")
        if kind == "Metaspace" and step.get("prepend_scheme") == "first" and index:
            raise Unsupported('pre_tokenizer Metaspace of scheme "first" that is not the first')
        functions.append(_KINDS[kind](step))
    if steps and steps[-1]["type"] == "ByteLevel" and not bytes_follow:
        functions.append(lambda pieces, begins: [spell(piece.encode("utf-8")) for piece in pieces])

    def run(pieces: list[str], begins: bool) -> list[str]:
        for function in functions:
            pieces = function(pieces, begins)
        return pieces

    return run


def is_byte_level(spec: Any) -> bool:
    """Whether the last step is ByteLevel."""
    steps = list(_steps(spec))
    return bool(steps) and steps[-1].get("type") == "ByteLevel"


def cut_is_safe(spec: Any) -> bool:
    """Whether a text may be cut between a letter or number and a space before it is split."""
    steps = list(_steps(spec))
    known = [step["type"] != "Split" or _separates(step) is not None for step in steps]
    return all(known) and any(map(_separates, steps))


def _separates(step: Document) -> bool | None:
    """Whether the step cuts between a letter or number and a space; None: it may look across."""
    match step:
        case {"type": "Split", "pattern": {"Regex": source}}:
            whole = step.get("behavior") == "Isolated" or step.get("invert")
            return SEPARATE.get(source) if whole else None
        case {"type": "Split"}:
            return None
        case {"type": "ByteLevel"}:
            return bool(step.get("use_regex", True))
        case {"type": "Metaspace"}:
            return bool(step.get("split", True))
    return step["type"] in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")


def _steps(spec: Any) -> Iterator[Document]:
    if spec is None:
        return
    spec = an_object(spec, "pre_tokenizer")
    if spec.get("type") != "Sequence":
        yield spec
        return
    for step in a_list(spec.get("pretokenizers"), "pre_tokenizer.pretokenizers"):
        yield from _steps(step)


def _each(cut: Callable[[str], Iterable[str]]) -> PreTokenizer:
    return lambda pieces, begins: [part for piece in pieces for part in cut(piece) if part]


def _byte_level(spec: Document) -> PreTokenizer:
    chosen = settings(
        spec,
        "pre_tokenizer",
        {"add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    )
    prefix, use_regex = chosen["add_prefix_space"], chosen["use_regex"]

    def run(pieces: list[str], begins: bool) -> list[str]:
        if prefix:
            pieces = [piece if piece.startswith(" ") else " " + piece for piece in pieces]
        return [part for piece in pieces for part in split(piece)] if use_regex else pieces

    return run


def _bert(spec: Document) -> PreTokenizer:
    settings(spec, "pre_tokenizer", {})
    punctuation = character_class(BERT_PUNCTUATION, 0x10FFFF)
    return _each(re.compile(f"[{punctuation}]|[^{WHITE_SPACE}{punctuation}]+").findall)


def _whitespace(spec: Document) -> PreTokenizer:
    settings(spec, "pre_tokenizer", {})
    return _each(re.compile(f"[{word_class()}]+|[^{WHITE_SPACE}{word_class()}]+").findall)


def _whitespace_split(spec: Document) -> PreTokenizer:
    settings(spec, "pre_tokenizer", {})
    return _each(re.compile(f"[^{WHITE_SPACE}]+").findall)


def _metaspace(spec: Document) -> PreTokenizer:
    defaults = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    rest = {"add_prefix_space": None, "str_rep": None}
    chosen = settings(spec, "pre_tokenizer", defaults | rest)
    mark, scheme = chosen["replacement"], chosen["prepend_scheme"]
    if scheme not in ("always", "first", "never") or len(mark) != 1:
        raise ValueError(f"pre_tokenizer {short(spec)} is not supported")
    if chosen["add_prefix_space"] is False and scheme != "never":
        raise ValueError(
            f'pre_tokenizer.prepend_scheme is "{scheme}", but add_prefix_space is false'
        )
    cut = re.compile(f"{re.escape(mark)}?[^{re.escape(mark)}]+|{re.escape(mark)}").findall

    def run(pieces: list[str], begins: bool) -> list[str]:
        pieces = [piece.replace(" ", mark) for piece in pieces]
        if scheme == "always" or (scheme == "first" and begins):
            pieces = [piece if piece.startswith(mark) else mark + piece for piece in pieces]
        return [part for piece in pieces for part in cut(piece)] if chosen["split"] else pieces

    return run


def _split(spec: Document) -> PreTokenizer:
    chosen = settings(
        spec, "pre_tokenizer", {"pattern": {}, "behavior": "Isolated", "invert": False}
    )
    match chosen["pattern"]:
        case {"String": str(text), **rest} if text and not rest:
            spans = re.compile(re.escape(text)).finditer
            return _by(lambda piece: (found.span() for found in spans(piece)), chosen)
        case {"Regex": str(source), **rest} if not rest:
            return _by(Pattern(source).spans, chosen)
    raise ValueError(f"pre_tokenizer.pattern {short(chosen['pattern'])} is not supported")


def _digits(spec: Document) -> PreTokenizer:
    individual = settings(spec, "pre_tokenizer", {"individual_digits": False})["individual_digits"]
    return _members(f"{NUMBERS} {NEW_DIGITS}", "Isolated" if individual else "Contiguous")


def _punctuation(spec: Document) -> PreTokenizer:
    behavior = settings(spec, "pre_tokenizer", {"behavior": "Isolated"})["behavior"]
    return _members(BERT_PUNCTUATION, behavior)


def _delimiter(spec: Document) -> PreTokenizer:
    delimiter = a_string(settings(spec, "pre_tokenizer", {"delimiter": " "})["delimiter"], "")
    return _at(lambda text: re.compile(re.escape(delimiter)), "Removed")


def _members(table: str, behavior: str) -> PreTokenizer:
    """Split at each character of a table of code points."""

    @cache
    def pattern(last: int) -> re.Pattern[str]:
        return re.compile(f"[{character_class(table, last)}]")

    return _at(lambda text: pattern(last_point(text)), behavior)


def _at(pattern: Callable[[str], re.Pattern[str]], behavior: str) -> PreTokenizer:
    """Split at each match of the pattern for a text."""
    return _by(
        lambda piece: (found.span() for found in pattern(piece).finditer(piece)),
        {"behavior": behavior, "invert": False},
    )


def _by(find: Callable[[str], Iterable[tuple[int, int]]], chosen: Document) -> PreTokenizer:
    """Split at what `find` finds (or with `invert` at what lies between) in one of five ways."""
    behavior, invert = chosen["behavior"], chosen["invert"]
    if behavior not in _BEHAVIORS:
        raise ValueError(f"pre_tokenizer.behavior {short(behavior)} is not supported")

    def spans(piece: str) -> Iterator[Span]:
        at = 0
        for start, end in find(piece):
            if start > at:
                yield piece[at:start], invert
            yield piece[start:end], not invert
            at = end
        if at < len(piece):
            yield piece[at:], invert

    return _each(lambda piece: _BEHAVIORS[behavior](spans(piece)))


def _isolated(spans: Iterable[Span]) -> list[str]:
    return [part for part, _ in spans]


def _removed(spans: Iterable[Span]) -> list[str]:
    return [part for part, matched in spans if not matched]


def _contiguous(spans: Iterable[Span]) -> list[str]:
    return _joined(spans, lambda matched, before: matched == before)


def _merged_with_previous(spans: Iterable[Span]) -> list[str]:
    return _joined(spans, lambda matched, before: matched and not before)


def _merged_with_next(spans: Iterable[Span]) -> list[str]:
    backwards = [(part[::-1], matched) for part, matched in reversed(list(spans))]
    return [part[::-1] for part in reversed(_merged_with_previous(backwards))]


def _joined(spans: Iterable[Span], joins: Callable[[bool, bool], bool]) -> list[str]:
    """The stretches, each joined to the one before where `joins` says so of their flags."""
    parts: list[str] = []
    before = False
    for part, matched in spans:
        if parts and joins(matched, before):
            parts[-1] += part
        else:
            parts.append(part)
        before = matched
    return parts


_KINDS: dict[str, Callable[[Document], PreTokenizer]] = {
    "BertPreTokenizer": _bert,
    "ByteLevel": _byte_level,
    "CharDelimiterSplit": _delimiter,
    "Digits": _digits,
    "Metaspace": _metaspace,
    "Punctuation": _punctuation,
    "Split": _split,
    "Whitespace": _whitespace,
    "WhitespaceSplit": _whitespace_split,
}
_BEHAVIORS: dict[str, Callable[[Iterable[Span]], list[str]]] = {
    "Removed": _removed,
    "Isolated": _isolated,
    "Contiguous": _contiguous,
    "MergedWithPrevious": _merged_with_previous,
    "MergedWithNext": _merged_with_next,
}

"""Counting the pre-tokens of texts of any size as a tokenizer.json describes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from . import normalizers, pre_tokenizers
from .reading import Document

_WINDOW = 1 << 16


def count_pieces(
    texts: Iterable[str], normalizer: Document | None, pre_tokenizer: Document
) -> Counter[str]:
    """How often each pre-token occurs in the texts joined.

    For normalisers and pre-tokenisers that look at no text across a space.
    """
    normalise = normalizers.normalizer(normalizer)
    split = pre_tokenizers.pre_tokenizer(pre_tokenizer)
    counts: Counter[str] = Counter()
    for window in _windows(texts):
        counts.update(split([normalise(window)], False))
    return counts


def _windows(texts: Iterable[str]) -> Iterator[str]:
    """The same text as all of `texts` joined, cut before spaces."""
    held, wanted = "", _WINDOW
    for text in texts:
        held += text
        if len(held) < wanted:
            continue
        end = held.rfind(" ")
        if end > 0:
            yield held[:end]
            held = held[end:]
        wanted = max(_WINDOW, 2 * len(held))
    if held:
        yield held

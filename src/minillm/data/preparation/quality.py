"""Rules that ordinary text keeps: a text's quality is the share of them that it keeps.

After Gopher (Rae et al. 2021, table A1) and C4 (Raffel et al. 2020, section 2.2). Where words are
not divided by spaces (Chinese, Japanese, Thai), rules about their length are kept by every text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from .alphabets import SCRIPTS, STOP_WORDS
from .measures import Measures

_BULLETS = re.compile(r"^[ \t]*[•‣◦▪●○*\-–][ \t]", re.MULTILINE)
_ELLIPSES = re.compile(r"(?:…|\.\.\.)[ \t]*$", re.MULTILINE)
_SYMBOLS = re.compile(r"#|…|\.\.\.")
_ENDS = re.compile(r"[.!?。！？।؟…][\"'”’»)\]]*(?=\s|$)|[。！？]")
_UNSPACED = [SCRIPTS.index(script) for script in ("Han", "Kana", "Thai")]


class _Texts:
    """What the rules ask of n texts."""

    def __init__(self, measures: Measures) -> None:
        self.measures, self.words = measures, measures.words.counts
        self.at_least_one = np.maximum(1, self.words)
        self.unspaced = measures.scripts[:, _UNSPACED].sum(axis=1) * 2 > measures.scripts.sum(
            axis=1
        )
        split = [[line.strip() for line in text.split("\n")] for text in measures.texts]
        self.lines = [[line for line in lines if line] for lines in split]

    def share_of_lines(self, pattern: re.Pattern[str]) -> np.ndarray:
        found = self.found(pattern)
        return found / np.maximum(1, [len(lines) for lines in self.lines])

    def found(self, pattern: re.Pattern[str]) -> np.ndarray:
        return np.array([len(pattern.findall(text)) for text in self.measures.texts], np.int64)

    def mean_length(self) -> np.ndarray:
        lengths = self.measures.per_text(self.measures.words.lengths) / self.at_least_one
        return np.where(self.unspaced, 5.0, lengths)

    def repeated_lines(self) -> np.ndarray:
        return np.array([1 - len({*lines}) / max(1, len(lines)) for lines in self.lines])

    def has_stop_words(self) -> np.ndarray:
        """Two stop words of its language; kept where its language has no list here."""
        languages = self.measures.languages
        listed = (languages > 0) & (languages <= len(STOP_WORDS))
        unclear = (languages == 0) & ~self.unspaced
        hits = self.measures.stop_words.max(axis=1)
        return np.where(listed | unclear, hits >= 2, True)


Rule = Callable[[_Texts], Any]
RULES: dict[str, Rule] = {
    "50 to 100,000 words": lambda t: (t.words >= 50) & (t.words <= 100_000),
    "words of 3 to 10 characters on average": lambda t: (
        (t.mean_length() >= 3) & (t.mean_length() <= 10)
    ),
    "at most one # or ellipsis to 10 words": lambda t: t.found(_SYMBOLS) <= 0.1 * t.words,
    "at most 90 % of the lines begin with a bullet": lambda t: t.share_of_lines(_BULLETS) <= 0.9,
    "at most 30 % of the lines end with an ellipsis": lambda t: t.share_of_lines(_ELLIPSES) <= 0.3,
    "at least 80 % of the words hold a letter": lambda t: (
        t.measures.per_text(t.measures.words.letters) >= 0.8 * t.words
    ),
    "two frequent words of its language": _Texts.has_stop_words,
    "at most 30 % of the lines came before": lambda t: t.repeated_lines() <= 0.3,
    "at most 20 % of five words in a row came before": lambda t: (
        t.measures.repeated_shingles <= 0.2
    ),
    "at least three sentences end": lambda t: t.found(_ENDS) >= 3,
}
NAMES = tuple(RULES)


def broken(measures: Measures) -> np.ndarray:
    """(n,) uint16: bit r is set where a text breaks rule r of RULES."""
    texts = _Texts(measures)
    bits = np.zeros(measures.count, np.uint16)
    for bit, rule in enumerate(RULES.values()):
        bits |= np.where(rule(texts), 0, 1 << bit).astype(np.uint16)
    return bits


def quality(bits: np.ndarray) -> np.ndarray:
    """The share of the rules that are kept."""
    counts = sum((bits >> bit) & 1 for bit in range(len(RULES)))
    return 1 - np.asarray(counts) / len(RULES)

"""Words, shingles and languages of many texts at once: what rules and comparisons build on."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..lines import sums, weights
from .alphabets import LANGUAGES, SCRIPTS, STOP_WORDS, language_of_script
from .lexicon import Lexicon

SHINGLE = 5  # words in a row that are compared
_STOP_SHARE, _STOP_LEAST = 0.08, 2
_LEXICON = Lexicon()


class Measures:
    """What is in n texts, (n,) arrays unless said otherwise. Upper and lower case are equal.

    Words are runs of letters and digits; a Chinese character or kana is a word by itself.
    """

    def __init__(self, texts: list[str]) -> None:
        self.count, self.texts = len(texts), texts
        self.words = _LEXICON.read(texts)

    def per_text(self, of_words: np.ndarray) -> np.ndarray:
        """Sums over the words of each text."""
        return np.bincount(self.words.text, of_words, self.count).astype(np.int64)

    @cached_property
    def shingles(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of five words in a row, and the text of each.

        A text of fewer words has one, of all of them.
        """
        words = self.words
        factors = weights(np.arange(SHINGLE))
        n = max(0, len(words.hashes) - SHINGLE + 1)
        hashes = np.zeros(n, np.uint64)
        for at, factor in enumerate(factors):
            hashes += words.hashes[at : at + n] * factor
        whole = words.text[:n] == words.text[SHINGLE - 1 :][:n]
        few = (words.counts > 0) & (words.counts < SHINGLE)
        starts = np.cumsum(words.counts) - words.counts
        places = np.arange(len(words.hashes)) - np.repeat(starts, words.counts)
        extra = sums(words.hashes * factors[places % SHINGLE], starts, words.counts)[few]
        text = np.concatenate((words.text[:n][whole], np.flatnonzero(few)))
        return weights(np.concatenate((hashes[whole], extra))), text

    @cached_property
    def repeated_shingles(self) -> np.ndarray:
        """The share of the shingles that came before in their text."""
        hashes, text = self.shingles
        all_of = np.bincount(text, minlength=self.count)
        joint = np.sort(hashes ^ weights(text.astype(np.uint64)))
        if len(joint) and (joint[1:] != joint[:-1]).all():
            return np.zeros(self.count)
        _, first = np.unique(hashes ^ weights(text.astype(np.uint64)), return_index=True)
        return 1 - np.bincount(text[first], minlength=self.count) / np.maximum(1, all_of)

    @cached_property
    def stop_words(self) -> np.ndarray:
        """(n, languages of STOP_WORDS): how many of the words are its most frequent ones."""
        hit = np.flatnonzero(self.words.stops)
        text, masks = self.words.text[hit], self.words.stops[hit]
        counts = [
            np.bincount(text, (masks >> bit) & 1, self.count) for bit in range(len(STOP_WORDS))
        ]
        return np.stack(counts, axis=1).astype(np.int64)

    @cached_property
    def scripts(self) -> np.ndarray:
        """(n, scripts): how many characters are in words of each; the first letter tells."""
        joint = self.words.text * len(SCRIPTS) + self.words.scripts
        counts = np.bincount(joint, self.words.lengths, self.count * len(SCRIPTS))
        return counts.reshape(self.count, -1).astype(np.int64)

    @cached_property
    def languages(self) -> np.ndarray:
        """The place in LANGUAGES of each text's, 0 where it is unclear.

        By the script most letters are of (a tenth of kana makes Chinese characters Japanese); where
        languages share it, by whose most frequent words there are most of: two, and 8 % of all.
        """
        scripts = self.scripts.copy()
        han, kana = SCRIPTS.index("Han"), SCRIPTS.index("Kana")
        japanese = scripts[:, kana] * 10 > scripts[:, han]
        scripts[japanese, kana] += scripts[japanese, han]
        scripts[:, 0] = 0
        by_script = np.array([language_of_script(script) for script in SCRIPTS])
        found = by_script[scripts.argmax(axis=1)]
        hits = self.stop_words.max(axis=1)
        told = (hits >= _STOP_LEAST) & (hits >= _STOP_SHARE * self.words.counts)
        by_words = np.where(told, 1 + self.stop_words.argmax(axis=1), 0)
        return np.where(found == 0, by_words, found).astype(np.uint8)


assert len(LANGUAGES) <= 256

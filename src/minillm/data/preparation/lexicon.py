"""Words as numbers: what is to be known of each different word is found out once."""

from __future__ import annotations

import re
from array import array
from hashlib import blake2b

import numpy as np

from .alphabets import SINGLE, STOP_WORDS, script_of

_WORD = re.compile(rf"[^\W{SINGLE}]+|[{SINGLE}]")
_MOST_WORDS, _MOST_CHARACTERS = 1 << 20, 1 << 26

STOP_MASKS: dict[str, int] = {}  # the languages, as bits, whose stop word it is
for _bit, _words in enumerate(STOP_WORDS.values()):
    for _word in _words.split():
        STOP_MASKS[_word] = STOP_MASKS.get(_word, 0) | 1 << _bit


class Lexicon(dict[str, int]):
    """The number of each word met, and by number its hash, length, script and stop words."""

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def _begin(self) -> None:
        self.clear()
        self._hashes, self._lengths, self._stops = array("Q"), array("L"), array("L")
        self._scripts, self._letters = array("B"), array("B")
        self._characters = 0

    def __missing__(self, word: str) -> int:
        digest = blake2b(word.encode("utf-8"), digest_size=8).digest()
        self._hashes.append(int.from_bytes(digest, "little"))
        self._lengths.append(len(word))
        self._stops.append(STOP_MASKS.get(word, 0))
        letter = next((character for character in word if character.isalpha()), "")
        self._letters.append(bool(letter))
        self._scripts.append(script_of(letter) if letter else 0)
        self._characters += len(word)
        number = self[word] = len(self._hashes) - 1
        return number

    def read(self, texts: list[str]) -> Words:
        """The words of some texts; upper and lower case are equal."""
        if len(self) > _MOST_WORDS or self._characters > _MOST_CHARACTERS:
            self._begin()
        found = array("L")
        counts = np.empty(len(texts), np.int64)
        before = 0
        for place, text in enumerate(texts):
            found.extend(map(self.__getitem__, _WORD.findall(text.lower())))
            counts[place] = len(found) - before
            before = len(found)
        numbers = np.frombuffer(found, f"u{found.itemsize}").astype(np.int64)
        return Words(
            counts,
            np.repeat(np.arange(len(texts)), counts),
            np.array(self._hashes, np.uint64)[numbers],
            np.array(self._lengths, np.int64)[numbers],
            np.array(self._stops, np.int64)[numbers],
            np.array(self._scripts, np.int64)[numbers],
            np.array(self._letters, bool)[numbers],
        )


class Words:
    """Words of n texts, one behind the other."""

    def __init__(
        self,
        counts: np.ndarray,
        text: np.ndarray,
        hashes: np.ndarray,
        lengths: np.ndarray,
        stops: np.ndarray,
        scripts: np.ndarray,
        letters: np.ndarray,
    ) -> None:
        """`counts` (n,) of each text; of each word the text it is in, its hash and so on."""
        self.counts, self.text, self.hashes, self.lengths = counts, text, hashes, lengths
        self.stops, self.scripts, self.letters = stops, scripts, letters

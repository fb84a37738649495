"""WordPiece: the longest token that a word begins with, then the longest of the rest.

Source: Wu et al. 2016; Devlin et al. 2018, google-research/bert `tokenization.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class WordPiece:
    """A word none of whose pieces is known, or that is too long, is one unknown token."""

    def __init__(
        self, ids: Mapping[str, int], unknown: int, prefix: str = "##", longest_word: int = 100
    ) -> None:
        """`prefix` marks the tokens that do not begin a word; `longest_word` in characters."""
        self._ids, self._unknown, self._longest_word = ids, unknown, longest_word
        self._prefix = prefix
        self._longest = max(map(len, ids), default=0)

    def lists(self, word: str) -> Iterator[list[int]]:
        """The ids of a word, as one list."""
        yield self._ids_of(word) if len(word) <= self._longest_word else [self._unknown]

    def _ids_of(self, word: str) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(word):
            prefix = self._prefix if start else ""
            end = min(len(word), start + self._longest)
            while end > start and prefix + word[start:end] not in self._ids:
                end -= 1
            if end == start:
                return [self._unknown]
            ids.append(self._ids[prefix + word[start:end]])
            start = end
        return ids

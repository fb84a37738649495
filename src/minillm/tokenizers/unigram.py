"""The unigram model: of all ways to cut a text into tokens the most probable.

Source: Kudo 2018 (subword regularization); Viterbi's algorithm over the characters.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence

from .character_merging import BYTE_TOKENS

_UNKNOWN_PENALTY = 10.0
_FLOOR = -1e5


class Unigram:
    """Neighbouring characters without a token are one unknown token, or their bytes."""

    def __init__(
        self,
        ids: Mapping[str, int],
        scores: Sequence[float],
        unknown: int | None,
        byte_ids: Sequence[int] | None = None,
        least_score: float | None = None,
        single: bool = False,
    ) -> None:
        """`ids` of the tokens that may be found, `scores` (log-probabilities) by id.

        `byte_ids` are the tokens of the 256 bytes, where unknown characters become bytes; an
        unknown character scores 10 less than `least_score`, by default the least of `scores`.
        `single`: sums are rounded to 32 bits and begin anew below -100,000, as SentencePiece 0.2.3
        does it; rounding decides ties. Else they have 64 bits.
        """
        self._scores, self._unknown, self._byte_ids = scores, unknown, byte_ids
        self._type, self._floor = ("f", _FLOOR) if single else ("d", float("-inf"))
        self._known: dict[str, int] = {}  # tokens, and -1 for what only begins one
        for token in ids:
            for end in range(1, len(token)):
                self._known.setdefault(token[:end], -1)
        self._known |= ids
        self._longest = max(map(len, ids), default=1)
        least = min(scores, default=0.0) if least_score is None else least_score
        self._unknown_score = array(self._type, [least - _UNKNOWN_PENALTY])[0]

    def lists(self, piece: str) -> Iterator[list[int]]:
        """The ids of a pre-token, as one list; ValueError if it needs an unknown token."""
        starts, found = self._best(piece)
        ids: list[int] = []
        end = len(piece)
        while end > 0:
            start = starts[end]
            if found[end] >= 0:
                ids.append(found[end])
            else:
                while start > 0 and found[start] < 0:
                    start = starts[start]
                ids += reversed(self._without_token(piece[start:end]))
            end = start
        yield ids[::-1]

    def _best(self, text: str) -> tuple[list[int], list[int]]:
        """Where the last token of the best way to each place begins, and its id; -1 if unknown."""
        size = len(text)
        known, scores = self._known, self._scores
        best, rounded = array(self._type, [0.0]) * (size + 1), array(self._type, [0.0])
        starts, found = [-1] * (size + 1), [-1] * (size + 1)
        for start in range(size):
            so_far = best[start]
            if so_far < self._floor:
                for end in range(start + 1, min(start + self._longest, size + 1)):
                    best[end] -= so_far
                so_far = 0.0
            single = False
            for end in range(start + 1, size + 1):
                id = known.get(text[start:end])
                if id is None:
                    break
                if id < 0:
                    continue
                single = single or end == start + 1
                rounded[0] = scores[id] + so_far
                if starts[end] < 0 or rounded[0] > best[end]:
                    best[end], starts[end], found[end] = rounded[0], start, id
            if not single:
                rounded[0], end = self._unknown_score + so_far, start + 1
                if starts[end] < 0 or rounded[0] > best[end]:
                    best[end], starts[end], found[end] = rounded[0], start, -1
        return starts, found

    def _without_token(self, text: str) -> list[int]:
        if self._byte_ids is not None:
            return [self._byte_ids[byte] for byte in text.encode("utf-8")]
        if self._unknown is None:
            raise ValueError(f"encode: {text!r} has no token, and the vocabulary no unknown token")
        return [self._unknown]


def byte_tokens(ids: Mapping[str, int]) -> list[int] | None:
    """The ids of the 256 byte tokens, or None unless all are there."""
    found = [ids.get(token, -1) for token in BYTE_TOKENS]
    return found if min(found) >= 0 else None

"""Byte-pair encoding that begins with characters, as SentencePiece's does.

Source: Kudo and Richardson 2018 (SentencePiece); Sennrich et al. 2016.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from .merging import PairTable, merge

MARK = "▁"
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]

_WORDS = re.compile(f"{MARK}*[^{MARK}]+|{MARK}+")
MARK_INSIDE = re.compile(f"[^{MARK}]{MARK}")


class CharacterMerger:
    """Merges the characters of pre-tokens.

    A character without a token is its UTF-8 bytes where all of them have one (`byte_fallback`),
    else the unknown token, else it is dropped; with `fuse_unknown` neighbours that are unknown are
    one. With `whole` a pre-token that is a token is that token (`ignore_merges`).
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        table: PairTable,
        unknown: int | None = None,
        byte_fallback: bool = False,
        fuse_unknown: bool = False,
        whole: bool = False,
    ) -> None:
        self._ids, self._table, self._unknown = ids, table, unknown
        self._byte_fallback, self._fuse, self._whole = byte_fallback, fuse_unknown, whole

    def lists(self, piece: str) -> Iterator[list[int]]:
        """The ids of a pre-token, as one list."""
        if self._whole and piece in self._ids:
            yield [self._ids[piece]]
        else:
            yield merge(self._start(piece), self._table)

    @property
    def separable(self) -> bool:
        """Whether `words` changes no id: no token has `▁` behind another character."""
        return not self._whole and MARK in self._ids and not any(map(MARK_INSIDE.search, self._ids))

    def _start(self, piece: str) -> list[int]:
        """The ids before the first merge."""
        start: list[int] = []
        pending = False  # an unknown token, which others may be fused with
        for character in piece:
            id = self._ids.get(character)
            fallback = [id] if id is not None else self._bytes_of(character)
            if pending and (id is not None or (not fallback and not self._fuse)):
                start.append(self._unknown or 0)
                pending = False
            start += fallback
            pending = pending or (not fallback and self._unknown is not None)
        return [*start, self._unknown or 0] if pending else start

    def _bytes_of(self, character: str) -> list[int]:
        """The byte tokens of a character, none unless all of them are known."""
        if not self._byte_fallback:
            return []
        ids = [self._ids.get(BYTE_TOKENS[byte], -1) for byte in character.encode("utf-8")]
        return ids if min(ids) >= 0 else []


def words(piece: str) -> list[str]:
    """The piece cut wherever a `▁` follows something else."""
    return _WORDS.findall(piece)

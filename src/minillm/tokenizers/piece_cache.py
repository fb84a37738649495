"""Ids of pre-tokens that were met before."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

_CACHE_SIZE = 1 << 16
_LONGEST_CACHED = 32


class PieceCache(dict[str, bytes]):
    """Packed ids by pre-token, made on demand; emptied when it is full."""

    def __init__(self, encode: Callable[[str], Iterable[list[int]]], dtype: np.dtype) -> None:
        """`encode` gives the ids of a pre-token in one or more lists."""
        super().__init__()
        self._encode, self._dtype = encode, dtype

    def __missing__(self, piece: str) -> bytes:
        packed = b"".join([np.array(ids, self._dtype).tobytes() for ids in self._encode(piece)])
        if len(piece) <= _LONGEST_CACHED:
            if len(self) >= _CACHE_SIZE:
                self.clear()
            self[piece] = packed
        return packed

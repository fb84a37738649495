"""Token files that are read as one, and what trains from them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from .tokens import TokenFile, TokenWriter


@runtime_checkable
class Tokens(Protocol):
    """A sequence of token ids, wherever they lie."""

    def __len__(self) -> int: ...

    def rows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The `length` ids from each of `starts` on, (n, length) int64."""


class TokenArray:
    """Ids that are in memory: (n,) integers, or TypeError or ValueError."""

    def __init__(self, ids: np.ndarray) -> None:
        if ids.dtype.kind not in "iu":
            raise TypeError(f"windows: ids are {ids.dtype}, integers are needed")
        if ids.ndim != 1:
            raise ValueError(f"windows: ids of shape {ids.shape}, one dimension is needed")
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """See `Tokens`."""
        return self.ids[starts[:, None] + np.arange(length)].astype(np.int64)


class TokenShards:
    """Several token files, read as one sequence.

    `fingerprint` of the tokenizer; `digest` SHA-256 over those of the files. Raises ValueError for
    no file or files of more than one tokenizer.
    """

    def __init__(self, files: Sequence[TokenFile]) -> None:
        if len({(file.fingerprint, file.vocab_size) for file in files}) != 1:
            raise ValueError(
                f"tokens: {len(files)} files of {len({file.fingerprint for file in files})} "
                "tokenizers, files of one are needed"
            )
        self.files = tuple(files)
        self.vocab_size, self.fingerprint = files[0].vocab_size, files[0].fingerprint
        joined = "\n".join(file.digest for file in files)
        self.digest = hashlib.sha256(joined.encode("ascii")).hexdigest()
        self._ends = np.cumsum([len(file) for file in files])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def path(self) -> Path:
        """The first of the files."""
        return self.files[0].path

    def rows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """See `Tokens`; IndexError for what lies outside."""
        if len(starts) and (starts.min() < 0 or starts.max() + length > len(self)):
            raise IndexError(
                f"tokens: ids {int(starts.min())} to {int(starts.max()) + length}, 0 to "
                f"{len(self)} are there"
            )
        out = np.empty((len(starts), length), np.int64)
        for row, start in zip(out, starts.tolist()):
            filled = 0
            while filled < length:
                file = int(np.searchsorted(self._ends, start + filled, side="right"))
                begin = start + filled - int(self._ends[file]) + len(self.files[file])
                piece = self.files[file].ids[begin : begin + length - filled]
                row[filled : filled + len(piece)] = piece
                filled += len(piece)
        return out

    def verify(self) -> None:
        """Read all ids; ValueError if they are not those that were written."""
        for file in self.files:
            file.verify()


class ShardWriter:
    """Writes ids to `folder`/`name`-00000.bin and so on, `size` ids in each but the last.

    A shard takes its name when it is full, the last one with `close`.
    """

    def __init__(
        self, folder: Path, name: str, size: int, vocab_size: int, fingerprint: str
    ) -> None:
        self._folder, self._name, self._size = folder, name, size
        self._vocabulary = vocab_size, fingerprint
        self._open: TokenWriter | None = None
        self.paths: list[Path] = []
        self.count = 0

    def write(self, ids: np.ndarray) -> None:
        """Append `ids`; errors as of `TokenWriter.write`."""
        for piece in self._fitting(ids):
            if self._open is None:
                path = self._folder / f"{self._name}-{len(self.paths):05d}.bin"
                self._open = TokenWriter(path, *self._vocabulary).__enter__()
                self.paths.append(path)
            self._open.write(piece)
            self.count += len(piece)
            if self._open.count == self._size:
                self.close()

    def _fitting(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        start = 0
        while start < len(ids):
            room = self._size - (self._open.count if self._open is not None else 0)
            yield ids[start : start + room]
            start += room

    def close(self, error: BaseException | None = None) -> None:
        """Give the open shard its name, or remove it if there was an error."""
        writer, self._open = self._open, None
        if writer is not None:
            writer.__exit__(type(error) if error else None, error, None)

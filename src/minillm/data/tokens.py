"""Token ids in a file: a fixed header, then the ids as little-endian integers.

Header (128 bytes, little-endian): magic "MINILLMT", version u32, bytes an id u32 (2 or 4), number
of ids u64, vocabulary size u64, tokenizer fingerprint (64 ASCII characters), SHA-256 of the ids.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from minillm.quantities import counted

from ..formats.files import atomic_write
from ..tokenizers import id_dtype

_HEADER = struct.Struct("<8sIIQQ64s32s")
_MAGIC = b"MINILLMT"
_VERSION = 1
_LARGEST_VOCABULARY = 1 << 32
_BLOCK = 1 << 18


class TokenWriter:
    """Writes ids to `path`, which takes its name only when the `with` block ends without error.

    The integer type follows the vocabulary: uint16 up to 65536 ids, else uint32. Raises ValueError
    for a vocabulary or fingerprint that the header cannot hold.
    """

    def __init__(self, path: str | os.PathLike[str], vocab_size: int, fingerprint: str) -> None:
        if not 1 <= vocab_size <= _LARGEST_VOCABULARY:
            raise ValueError(
                f"tokens: a vocabulary of {vocab_size}, 1 to {_LARGEST_VOCABULARY} is needed"
            )
        if not (len(fingerprint) == 64 and fingerprint.isascii() and fingerprint.isprintable()):
            raise ValueError(f"tokens: fingerprint {fingerprint!r}, 64 ASCII characters are needed")
        self._path, self._vocab_size, self._fingerprint = Path(path), vocab_size, fingerprint
        self._dtype = id_dtype(vocab_size).newbyteorder("<")
        self._hash = hashlib.sha256()
        self._stack = ExitStack()
        self._file: BinaryIO | None = None
        self.count = 0

    def __enter__(self) -> Self:
        self._file = self._stack.enter_context(atomic_write(self._path))
        self._file.write(bytes(_HEADER.size))
        return self

    def write(self, ids: np.ndarray) -> None:
        """Append `ids` (1-D, integers).

        Raises IndexError for an id outside the vocabulary, TypeError for what is not integers,
        RuntimeError outside the `with` block.
        """
        if self._file is None:
            raise RuntimeError("tokens: the writer is not open, a `with` block is needed")
        if ids.dtype.kind not in "iu":
            raise TypeError(f"tokens: ids are {ids.dtype}, integers are needed")
        if not ids.size:
            return
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= self._vocab_size:
            raise IndexError(
                f"tokens: id {least if least < 0 else most}, ids from 0 to "
                f"{self._vocab_size - 1} are needed"
            )
        data = np.ascontiguousarray(ids, self._dtype).data
        self._hash.update(data)
        self._file.write(data)
        self.count += ids.size

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        file, self._file = self._file, None
        with self._stack.pop_all() as stack:
            if kind is None and file is not None:
                file.seek(0)
                file.write(
                    _HEADER.pack(
                        _MAGIC,
                        _VERSION,
                        self._dtype.itemsize,
                        self.count,
                        self._vocab_size,
                        self._fingerprint.encode("ascii"),
                        self._hash.digest(),
                    )
                )
            stack.__exit__(kind, error, trace)


@dataclass(frozen=True, eq=False)
class TokenFile:
    """Ids in a file, mapped into memory for reading.

    `ids` (n,) uint16 or uint32, read-only; `fingerprint` of the tokenizer that made them; `digest`
    SHA-256 of the ids in hexadecimal.
    """

    path: Path
    ids: np.ndarray
    vocab_size: int
    fingerprint: str
    digest: str

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The `length` ids from each of `starts` on, (n, length) int64."""
        return self.ids[starts[:, None] + np.arange(length)].astype(np.int64)

    def blocks(self, size: int = _BLOCK) -> Iterator[np.ndarray]:
        """Yield the ids in order, `size` at a time."""
        for start in range(0, len(self.ids), size):
            yield self.ids[start : start + size]

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: bool = False) -> TokenFile:
        """Map the file after checking its header against its size.

        `verify` reads all of it and checks SHA-256 and ids too. Raises ValueError for a file that
        is damaged or no token file, OSError where it cannot be read.
        """
        path = Path(path)
        with open(path, "rb") as file:
            head = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size
        vocab_size, count, dtype, fingerprint, digest = _checked(path, head, size)
        ids = np.empty(0, dtype)
        if count:
            ids = np.memmap(path, dtype, "r", _HEADER.size, (count,)).view(np.ndarray)
        ids.flags.writeable = False
        tokens = cls(path, ids, vocab_size, fingerprint, digest)
        if verify:
            tokens.verify()
        return tokens

    def verify(self) -> None:
        """Read all ids; raises ValueError if they are not those that were written."""
        hash_ = hashlib.sha256()
        for block in self.blocks():
            hash_.update(block.data)
            if int(block.max()) >= self.vocab_size:
                raise ValueError(
                    f"tokens: {self.path} holds id {int(block.max())}, ids below "
                    f"{self.vocab_size} are needed"
                )
        if hash_.hexdigest() != self.digest:
            raise ValueError(
                f"tokens: {self.path} is damaged (sha256 {hash_.hexdigest()[:12]}), "
                f"{self.digest[:12]} is needed; prepare the data again"
            )


def _checked(path: Path, head: bytes, size: int) -> tuple[int, int, np.dtype, str, str]:
    """Vocabulary size, number of ids, their type, fingerprint and digest from a sound header."""
    if len(head) < _HEADER.size:
        raise ValueError(
            f"tokens: {path} has {counted(len(head), 'byte')}, a header of {_HEADER.size} is needed"
        )
    magic, version, width, count, vocab_size, fingerprint, digest = _HEADER.unpack(head)
    if magic != _MAGIC:
        raise ValueError(
            f"tokens: {path} begins with {magic!r}, a token file ({_MAGIC!r}) is needed"
        )
    if version != _VERSION:
        raise ValueError(
            f"tokens: {path} has version {version}, version {_VERSION} is needed; "
            "prepare the data again"
        )
    if not 1 <= vocab_size <= _LARGEST_VOCABULARY:
        raise ValueError(
            f"tokens: {path} states a vocabulary of {vocab_size}, 1 to "
            f"{_LARGEST_VOCABULARY} is needed"
        )
    dtype = id_dtype(vocab_size).newbyteorder("<")
    if width != dtype.itemsize:
        raise ValueError(
            f"tokens: {path} states {counted(width, 'byte')} an id, a vocabulary of "
            f"{vocab_size:,} needs {dtype.itemsize}"
        )
    if _HEADER.size + count * width != size:
        raise ValueError(
            f"tokens: {path} states {counted(count, 'id')} of {counted(width, 'byte')}, "
            f"{counted(_HEADER.size + count * width, 'byte')} are needed but it has {size:,}"
        )
    if not (fingerprint.isascii() and fingerprint.decode("latin-1").isprintable()):
        raise ValueError(f"tokens: {path} has a damaged tokenizer fingerprint, ASCII is needed")
    return vocab_size, count, dtype, fingerprint.decode("ascii"), digest.hex()

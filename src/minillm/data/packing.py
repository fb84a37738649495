"""Bytes of files as they are, or unpacked where they are gzip or Zstandard."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

GZIP, ZSTANDARD = ".gz", ".zst"
_BITE = 512
PACKED = (GZIP, ZSTANDARD)
_NAMES = {GZIP: "gzip", ZSTANDARD: "Zstandard"}
_MAGIC = {GZIP: b"\x1f\x8b", ZSTANDARD: b"\x28\xb5\x2f\xfd"}


@contextmanager
def unpacked(path: Path, name: str) -> Iterator[Any]:
    """The file at `path` open for reading, unpacked if its first bytes say that it is packed.

    Raises ValueError for a damaged or falsely named one, ImportError where Zstandard is missing.
    """
    with open(path, "rb") as file:
        head = file.read(4)
        file.seek(0)
        kind = next((kind for kind, magic in _MAGIC.items() if head.startswith(magic)), "")
        said = path.suffix.lower()
        if not kind and said in PACKED and head:
            magic = " ".join(f"0x{byte:02X}" for byte in _MAGIC[said])
            raise ValueError(
                f"read: {name} is not {_NAMES[said]}, a file that begins with "
                f"{magic} is needed; unpacked text must not be named {said}"
            )
        stream = gzip.GzipFile(fileobj=file) if kind == GZIP else file
        errors: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
        if kind == ZSTANDARD:
            stream, error = _zstandard(file, name)
            errors = (*errors, error)
        try:
            yield stream
        except errors as error:
            raise ValueError(
                f"read: {name} is damaged {_NAMES.get(kind, kind)} ({error}), a whole file is "
                "needed"
            ) from error


def _zstandard(file: BinaryIO, name: str) -> tuple[Any, type[Exception]]:
    try:
        import zstandard
    except ImportError:
        raise ImportError(
            f"read: {name} is packed with Zstandard, which needs the extra data; "
            "pip install 'minillm[data]'"
        ) from None
    return _Frames(file, zstandard.ZstdDecompressor().decompressobj), zstandard.ZstdError


class _Frames:
    """Reads one frame of Zstandard after the other; EOFError where the last one is cut off."""

    def __init__(self, file: BinaryIO, begin: Callable[[], Any]) -> None:
        self._file, self._begin = file, begin
        self._frame = begin()
        self._fresh = True  # nothing of the frame was read

    def read(self, size: int) -> bytes:
        """At least one byte, about `size` or less of them if the text is ordinary; b"" at the end.

        The file is taken in little bites, for four bytes may stand for 128 kB.
        """
        parts: list[bytes] = []
        held = 0
        while held < size and (bite := self._file.read(_BITE)):
            while bite:
                if self._frame.eof:
                    self._frame, self._fresh = self._begin(), True
                parts.append(self._frame.decompress(bite))
                self._fresh = False
                held += len(parts[-1])
                bite = self._frame.unused_data if self._frame.eof else b""
        if not held and not self._fresh and not self._frame.eof:
            raise EOFError("it ends within a frame")
        return b"".join(parts)

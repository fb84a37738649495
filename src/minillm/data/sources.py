"""Finding the files a corpus is made of, and reading their bytes."""

from __future__ import annotations

import os
import secrets
import select
import stat
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from .packing import PACKED, unpacked

CHUNK_BYTES = 1 << 18
STDIN = "-"
TEXT, JSON_LINES, CSV, TSV, PARQUET = "text", "JSON lines", "CSV", "TSV", "Parquet"
_KINDS = {
    ".txt": TEXT,
    ".md": TEXT,
    ".jsonl": JSON_LINES,
    ".csv": CSV,
    ".tsv": TSV,
    ".parquet": PARQUET,
}

PathLike = str | os.PathLike[str]
_Identity = tuple[int, int]


class Spool:
    """A copy of a stream that can be read only once; the file goes when nothing refers to it."""

    def __init__(self, stream: Any) -> None:
        self.path = Path(tempfile.gettempdir(), f"minillm-{secrets.token_hex(8)}")
        weakref.finalize(self, self.path.unlink, missing_ok=True)  # before there is a file: Ctrl-C
        with open(self.path, "xb", opener=_private) as file:
            _wait_for(stream)
            while chunk := stream.read1(CHUNK_BYTES):
                file.write(chunk)
                _wait_for(stream)


def _wait_for(stream: BinaryIO) -> None:
    """Return when there is something to read. A read that blocks may miss a signal just before."""
    with suppress(OSError, ValueError):  # what cannot be waited for is read at once
        while not select.select([stream], [], [], 0.1)[0]:
            pass


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@dataclass(frozen=True)
class Source:
    """One file of text.

    `kind` says how documents lie in it, None where the name does not tell; `spool` keeps the copy
    alive that the path leads to, if it is one. Of JSON lines `where`, a field and its value, says
    which are read.
    """

    path: Path
    name: str
    kind: str | None = None
    spool: Spool | None = None
    where: tuple[str, str] | None = None

    def chunks(self, size: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the bytes of the file in order, about `size` at a time, unpacked if it is packed.

        Raises ValueError for a damaged or falsely named packed file, OSError as the system does.
        """
        try:
            with unpacked(self.path, self.name) as stream:
                while chunk := stream.read(size):
                    yield chunk
        except OSError as error:
            raise _refusal(error, self.name, "a readable file") from error


@dataclass
class Sources:
    """The files found, in order, and what was passed over while looking."""

    files: list[Source] = field(default_factory=list)
    hidden: int = 0
    loops: int = 0
    broken_links: int = 0
    other_kinds: int = 0
    repeated: int = 0


def find(paths: PathLike | Iterable[PathLike]) -> Sources:
    """Find the text files that `paths` (files, folders, or "-" for standard input) name.

    Folders are searched to the bottom in the order of their names for .txt, .md, .jsonl, .csv, .tsv
    and .parquet, plain or as .gz or .zst. A file reached twice is taken once and counted. Raises
    ValueError where nothing is found, OSError where a path is missing or cannot be read.
    """
    named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not named:
        raise ValueError("read: no input named, at least one file or folder is needed")
    search = _Search()
    for path in named:
        if not os.fspath(path):
            raise ValueError("read: an empty name, that of a file or folder is needed")
        search.take(path)
    return search.found


class _Search:
    def __init__(self) -> None:
        self.found = Sources()
        self._files: set[_Identity] = set()
        self._folders: set[_Identity] = set()
        self._stdin_taken = False

    def take(self, path: PathLike) -> None:
        if os.fspath(path) == STDIN:
            self._take_stdin()
            return
        path, name = Path(path), shown(path)
        try:
            status = path.stat()
        except OSError as error:
            raise _refusal(error, name, "a file or folder") from error
        if stat.S_ISDIR(status.st_mode):
            before = len(self.found.files) + self.found.repeated
            self._take_tree(path)
            if len(self.found.files) + self.found.repeated == before:
                raise ValueError(
                    f"read: {name} is a folder without text, at least one file of "
                    f"{', '.join(_KINDS)} is needed, plain or as {' or '.join(PACKED)}"
                )
        elif stat.S_ISREG(status.st_mode):
            self._take_file(path, status)
        elif stat.S_ISFIFO(status.st_mode):
            with open(path, "rb") as pipe:
                self.found.files.append(_spooled(pipe, name))
        else:
            raise ValueError(
                f"read: {name} is a device or socket, a file, folder or pipe is needed"
            )

    def _take_stdin(self) -> None:
        if self._stdin_taken:
            self.found.repeated += 1
            return
        self._stdin_taken = True
        self.found.files.append(_spooled(sys.stdin.buffer, "standard input"))

    def _take_file(self, path: Path, status: os.stat_result) -> None:
        identity = _identity(status)
        if identity in self._files:
            self.found.repeated += 1
            return
        self._files.add(identity)
        self.found.files.append(Source(path, shown(path), _kind_of(path)))

    def _take_tree(self, top: Path) -> None:
        waiting: list[tuple[Path, tuple[_Identity, ...]]] = [(top, ())]
        while waiting:
            path, above = waiting.pop()
            if above and path.name.startswith("."):
                self.found.hidden += 1
                continue
            try:
                status = path.stat()
            except OSError as error:
                if not path.is_symlink():
                    raise _refusal(error, shown(path), "a readable file or folder") from error
                self.found.broken_links += 1
                continue
            if stat.S_ISDIR(status.st_mode):
                below = (*above, _identity(status))
                waiting.extend((entry, below) for entry in self._entries(path, status, above))
            elif stat.S_ISREG(status.st_mode) and _kind_of(path) is not None:
                self._take_file(path, status)
            else:
                self.found.other_kinds += 1

    def _entries(
        self, folder: Path, status: os.stat_result, above: tuple[_Identity, ...]
    ) -> list[Path]:
        """What is in `folder`, the last name first, or nothing if it was or is being searched."""
        identity = _identity(status)
        if identity in self._folders:
            if identity in above:
                self.found.loops += 1
            else:
                self.found.repeated += 1
            return []
        self._folders.add(identity)
        try:
            return sorted(folder.iterdir(), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            raise _refusal(error, shown(folder), "a readable folder") from error


def size_of(files: Iterable[Source]) -> int | None:
    """The bytes that reading files will give, None where some are packed."""
    found = list(files)
    packed = any(f.path.suffix.lower() in PACKED for f in found)
    return None if packed else sum(f.path.stat().st_size for f in found)


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def _kind_of(path: Path) -> str | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return _KINDS.get(suffixes[-1]) if suffixes else None


def _spooled(stream: BinaryIO, name: str) -> Source:
    spool = Spool(stream)
    return Source(spool.path, name, spool=spool)


def _refusal(error: OSError, name: str, needed: str) -> OSError:
    return type(error)(f"read: {name}: {error.strerror or error}, {needed} is needed")


def shown(path: PathLike) -> str:
    """The path as one printable line, whatever bytes the file system holds."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in os.fspath(path)
    )

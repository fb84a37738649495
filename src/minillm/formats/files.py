"""Files that are either whole or not there: written aside, fsynced, renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that takes the name `path` only once it is complete and on disk.

    An exception inside the block (disk full, Ctrl-C) removes the partial file and leaves whatever
    stood at `path` untouched. Raises OSError as the file system does, of `path`.
    """
    path = Path(path)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with open(aside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink()
        name_target(error, aside, path)
        raise
    sync_folder(path.parent)


def name_target(error: BaseException, aside: Path, path: Path) -> None:
    """Let an OSError of `aside` name `path` instead, which is what the caller knows."""
    if isinstance(error, OSError) and str(error.filename) == str(aside):
        error.filename = str(path)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the system lets a folder be opened (not Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Delete the partial files that a killed writer left in `folder`, and no others."""
    for leftover in Path(folder).glob(f"*.{'[0-9a-f]' * 8}{TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)

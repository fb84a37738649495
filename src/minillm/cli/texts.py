"""Texts that commands are given: files and standard input, as UTF-8 whatever the locale says."""

from __future__ import annotations

import sys
from pathlib import Path


def read_stdin(command: str) -> str:
    """All of standard input; ValueError names the place of what is not UTF-8."""
    return decoded(sys.stdin.buffer.read(), command, "standard input")


def read_file(command: str, path: str) -> str:
    """The text of a file, without a byte order mark; OSError, and ValueError as above."""
    return decoded(Path(path).read_bytes(), command, path).removeprefix("\ufeff")


def decoded(data: bytes, command: str, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{command}: byte 0x{data[error.start]:02X} of {source}, at offset {error.start}, "
            "is not UTF-8, a text in UTF-8 is needed"
        ) from error

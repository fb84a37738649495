"""Any text to any console: what a model says can neither break it nor steer it."""

from __future__ import annotations

import errno
import os
import unicodedata
from typing import TextIO

GONE = (errno.EPIPE, errno.EIO, errno.EINVAL)  # EINVAL: a closed pipe on Windows
JOINERS = "\u200c\u200d"  # needed to write Persian and to join emoji


def visible(text: str) -> str:
    r"""`text` with what would steer or hide written out: ESC as `\x1b`, U+202E as `\u202e`.

    Escaped are control and format characters except newline, tab and the two joiners; line and
    paragraph separators; lone surrogates; noncharacters.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if _is_hidden(c) else c for c in text)


def shorten(text: str, limit: int) -> str:
    """The first `limit` characters; where more follow, how many."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} ... ({len(text) - limit} more characters)"


class Console:
    """A text stream that takes any string and outlives its reader.

    Characters its encoding lacks are written as backslash escapes. When the reader is gone (closed
    pipe, hung-up terminal) or the disk is full, writing stops and `lost` holds the reason; the
    program goes on. `full` is the error where it was not the reader who went. `stream=None`, as
    `sys.stderr` is in a program without a console, takes nothing.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.lost: str | None = None if stream is not None else "no stream"
        self.full: OSError | None = None

    @property
    def encoding(self) -> str:
        """The stream's encoding; UTF-8 for a stream that keeps text."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write and flush `text` unchanged but for characters the encoding lacks."""
        if self._stream is None or self.lost is not None:
            return len(text)
        try:
            self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            self._stream.flush()
        except OSError as error:
            self._lose(error)
        except ValueError as error:
            if not self._stream.closed:
                raise
            self.lost = str(error)
        return len(text)

    def flush(self) -> None:
        """Do nothing: every write is flushed."""

    def isatty(self) -> bool:
        """Whether a person watches."""
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def columns(self) -> int:
        """Width of the terminal in characters; 80 where it does not say."""
        try:
            assert self._stream is not None
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def _lose(self, error: OSError) -> None:
        """Stop writing. What a dead pipe left buffered goes to the null device, or the interpreter
        would fail on it at exit."""
        self.lost = str(error)
        if error.errno not in GONE:
            self.full = error
        elif self._stream is not None:
            try:
                descriptor = self._stream.fileno()
            except (OSError, AttributeError):  # not a stream of the system: nothing is buffered
                return
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)


def _is_hidden(c: str) -> bool:
    if c in "\n\t" or c in JOINERS:
        return False
    code = ord(c)
    nonchar = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return nonchar or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escape(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")

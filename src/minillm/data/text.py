"""Bytes to text, a chunk at a time: encodings, byte order marks and line ends."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

_MARKS = (  # the longer first: UTF-32-LE begins like UTF-16-LE
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LONGEST_MARK = 4
_WIDE = ("utf-16", "utf-32")
_STRIPS_MARK = frozenset((*_WIDE, "utf-8-sig"))
_NOT_FOR_FILES = frozenset(
    ("idna", "punycode", "undefined", "utf-7", "unicode-escape", "raw-unicode-escape")
)
_HEAD_BYTES = 1 << 16
_CONTROL_BYTES = bytes(code for code in (*range(32), 127) if code not in b"\t\n\f\r\x1b")
_CONTROL_SHARE = 0.1
_CONTROL_LEAST = 4

BOM = "\ufeff"
REPLACEMENT = "\ufffd"
_MARKER = "\udfff"  # half a surrogate pair: no codec admitted here decodes to it
_MARKING = "minillm.marking"


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _MARKER, error.end


codecs.register_error(_MARKING, _mark)


@dataclass(frozen=True)
class Decoding:
    """How bytes become text.

    `encoding` is any text codec Python has, `errors` "strict" or "replace"; `keep_newlines` keeps
    CR and CRLF; `chosen` says that the user could choose them, as errors then say. Raises
    ValueError for an unknown or unfit encoding or error rule.
    """

    encoding: str = "utf-8"
    errors: str = "strict"
    keep_newlines: bool = False
    chosen: bool = True

    def __post_init__(self) -> None:
        try:
            name = codecs.lookup(self.encoding).name.replace("_", "-")
            b"a".decode(name, "replace")
        except (LookupError, UnicodeError, ValueError) as error:
            raise ValueError(
                f"read: {self.encoding!r} is not a text encoding, a name such as "
                "utf-8, utf-16, latin-1 or cp1252 is needed"
            ) from error
        if name in _NOT_FOR_FILES:
            raise ValueError(
                f"read: {name} is not an encoding of text files, a name such as "
                "utf-8, utf-16, latin-1 or cp1252 is needed"
            )
        if self.errors not in ("strict", "replace"):
            raise ValueError(f"read: errors is {self.errors!r}, 'strict' or 'replace' is needed")
        object.__setattr__(self, "encoding", name)

    @property
    def wide(self) -> bool:
        """Whether ordinary text in this encoding is full of zero bytes."""
        return self.encoding.startswith(_WIDE)


@dataclass
class Repairs:
    """What reading took away or put in place of something else, and the rows it passed over."""

    boms: int = 0
    newlines: int = 0
    replacements: int = 0
    bad_rows: int = 0
    first_bad_row: str = ""


def decode(
    chunks: Iterable[bytes], decoding: Decoding, name: str, repairs: Repairs
) -> Iterator[str]:
    """Yield the text of `chunks`; however they are cut, the joined text is the same.

    One leading byte order mark is removed, CRLF and CR become LF (unless kept), and `repairs`
    counts both. Raises ValueError naming line (from 1), byte offset (from 0) and byte where the
    bytes are not text of that encoding.
    """
    head, rest = split_head(chunks)
    _check_mark(head, decoding, name)
    pieces = _Decoder(decoding, name, repairs)
    at_start = decoding.encoding not in _STRIPS_MARK
    if not at_start:
        repairs.boms += mark_of(head) is not None
    for chunk in chain((head,), rest, (None,)):
        text = pieces.decode(chunk)
        if text and at_start:
            at_start = False
            if text[0] == BOM:
                repairs.boms += 1
                text = text[1:]
        if text:
            yield text


class _Decoder:
    def __init__(self, decoding: Decoding, name: str, repairs: Repairs) -> None:
        self._decoding, self._name, self._repairs = decoding, name, repairs
        self._strict = decoding.errors == "strict"
        make = codecs.getincrementaldecoder(decoding.encoding)
        self._codec = make("strict" if self._strict else _MARKING)
        self._newlines = io.IncrementalNewlineDecoder(None, translate=True)
        self._offset = 0
        self._line = 1

    def decode(self, chunk: bytes | None) -> str:
        """The text that `chunk` completes; None ends the file."""
        data, final = (b"", True) if chunk is None else (chunk, False)
        state = self._codec.getstate()
        try:
            text = self._codec.decode(data, final)
        except UnicodeDecodeError as error:
            raise self._located(error, data, state) from error
        self._offset += len(data)
        if not self._strict and (marked := text.count(_MARKER)):
            self._repairs.replacements += marked
            text = text.replace(_MARKER, REPLACEMENT)
        plain = self._newlines.decode(text, final)
        self._line += plain.count("\n")
        if self._decoding.keep_newlines:
            return text
        self._repairs.newlines += text.count("\r")
        return plain

    def _located(
        self, error: UnicodeDecodeError, data: bytes, state: tuple[bytes, int]
    ) -> ValueError:
        held = len(state[0])
        self._codec.setstate(state)
        before = self._codec.decode(data[: max(0, error.start - held)])
        line = self._line + self._newlines.decode(before, True).count("\n")
        offset = self._offset - held + error.start
        encoding, byte = self._decoding.encoding, error.object[error.start]
        other = "latin-1" if encoding.startswith("utf") else "utf-8"
        return ValueError(
            f"read: {self._name} line {line}, byte offset {offset}: 0x{byte:02X} is not {encoding} "
            f"({error.reason}), text in {encoding} is needed"
            + f"; name the encoding with --encoding (such as {other}) or pass --errors replace"
            * self._decoding.chosen
        )


def split_head(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, enough for a byte order mark, and the rest."""
    rest = iter(chunks)
    head = b""
    while len(head) < _LONGEST_MARK and (chunk := next(rest, None)) is not None:
        head += chunk
    return head, rest


def mark_of(head: bytes) -> str | None:
    """The encoding whose byte order mark the bytes begin with."""
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def _check_mark(head: bytes, decoding: Decoding, name: str) -> None:
    marked, encoding = mark_of(head), decoding.encoding
    if not marked:
        if head and encoding in _WIDE:
            raise ValueError(
                f"read: {name} has no byte order mark, {encoding} needs one; pass "
                f"--encoding {encoding}-le or {encoding}-be"
            )
        return
    fits = marked.startswith(encoding) or encoding.startswith(marked)
    if not fits and not (marked == "utf-32-le" and "utf-16-le".startswith(encoding)):
        family = marked.removesuffix("-le").removesuffix("-be")
        raise ValueError(
            f"read: {name} begins with the byte order mark of {marked}, text in "
            f"{encoding} is needed" + f"; pass --encoding {family}" * decoding.chosen
        )


def refuse_binary(chunks: Iterable[bytes], decoding: Decoding, name: str) -> Iterator[bytes]:
    """Pass `chunks` on, raising ValueError where they are not the bytes of a text file.

    That is: a NUL byte anywhere, or more than a tenth control bytes in the first 64 KiB.
    UTF-16 and UTF-32, where zero bytes are ordinary, pass unseen.
    """
    offset = 0
    wide = decoding.wide
    for chunk in chunks:
        if not offset:
            wide = wide or (mark_of(chunk) or "").startswith(_WIDE)
        at = -1 if wide else chunk.find(0)
        if at < 0 and not offset and not wide:
            at = _first_of_many_controls(chunk[:_HEAD_BYTES])
        if at >= 0:
            hint = "; UTF-16 without a byte order mark needs --encoding utf-16-le"
            raise ValueError(
                f"read: {name} is binary: byte 0x{chunk[at]:02X} at offset {offset + at}, a text "
                "file is needed" + hint * decoding.chosen
            )
        offset += len(chunk)
        yield chunk


def _first_of_many_controls(head: bytes) -> int:
    ordinary = head.translate(None, _CONTROL_BYTES)
    controls = len(head) - len(ordinary)
    if controls < _CONTROL_LEAST or controls <= _CONTROL_SHARE * len(head):
        return -1
    return next(at for at, byte in enumerate(head) if byte in _CONTROL_BYTES)

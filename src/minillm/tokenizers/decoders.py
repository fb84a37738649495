"""The decoders of tokenizer.json: the bytes of text that a token stands for.

Here they work token by token, so that ids can be decoded as they arrive: each token has its bytes
at the beginning of a text and those anywhere else, and some leading spaces may be taken away.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from .byte_alphabet import unspell
from .normalizers import replacement
from .reading import Document, a_list, an_object, require, settings, short

Step = Callable[[str, bool], str]  # from a token and whether it is the first

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
# The clean-up of WordPiece: white space before these is dropped.
_CLEANED = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
    (" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


class Decoder(NamedTuple):
    """`piece(token, first)` gives a token's bytes; a text loses up to `strip` leading spaces."""

    piece: Callable[[str, bool], bytes]
    strip: int = 0


def decoder(spec: Any) -> Decoder:
    """The decoder of a tokenizer.json; without one, tokens are joined by spaces.

    Raises ValueError for a kind that is not supported.
    """
    steps: list[Step] = []
    strip, fused, to_bytes = 0, False, _utf8
    for part in _parts(spec) if spec is not None else [{"type": None}]:
        kind = part.get("type")
        if fused and kind == "Strip":
            strip = _leading_spaces(part)
        elif kind == "Fuse":
            fused = True
        elif kind in ("ByteLevel", "ByteFallback") and to_bytes is _utf8:
            to_bytes = _byte_level if kind == "ByteLevel" else _byte_fallback
        elif kind in _STEPS and not fused and to_bytes is _utf8:
            steps.append(_STEPS[kind](part))
        else:
            raise ValueError(f"decoder {short(part)} is not supported")

    def piece(token: str, first: bool) -> bytes:
        for step in steps:
            token = step(token, first)
        return to_bytes(token)

    return Decoder(piece, strip)


def _parts(spec: Any) -> list[Document]:
    spec = an_object(spec, "decoder")
    if spec.get("type") != "Sequence":
        return [spec]
    return [part for entry in a_list(spec.get("decoders"), "decoders") for part in _parts(entry)]


def _leading_spaces(spec: Document) -> int:
    chosen = settings(spec, "decoder", {"content": " ", "start": 0, "stop": 0})
    require(chosen, "content", (" ",), "decoder.")
    require(chosen, "stop", (0,), "decoder.")
    return int(chosen["start"])


def _utf8(token: str) -> bytes:
    return token.encode("utf-8")


def _byte_level(token: str) -> bytes:
    try:
        return unspell(token)
    except ValueError:
        return token.encode("utf-8")


def _byte_fallback(token: str) -> bytes:
    found = _BYTE.fullmatch(token)
    return bytes.fromhex(found.group(1)) if found else token.encode("utf-8")


def _joined_by_spaces(spec: Document) -> Step:
    return lambda token, first: token if first else " " + token


def _word_piece(spec: Document) -> Step:
    chosen = settings(spec, "decoder", {"prefix": "##", "cleanup": True})
    prefix, cleanup = chosen["prefix"], chosen["cleanup"]

    def step(token: str, first: bool) -> str:
        if not first:
            token = token.removeprefix(prefix) if token.startswith(prefix) else " " + token
        for found, content in _CLEANED if cleanup else ():
            token = token.replace(found, content)
        return token

    return step


def _metaspace(spec: Document) -> Step:
    defaults = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    chosen = settings(spec, "decoder", {**defaults, "add_prefix_space": None, "str_rep": None})
    mark, never = chosen["replacement"], chosen["prepend_scheme"] == "never"
    return lambda token, first: token.replace(mark, "" if first and not never else " ")


def _replace(spec: Document) -> Step:
    chosen = settings(spec, "decoder", {"pattern": {}, "content": ""})
    replace = replacement(chosen["pattern"], chosen["content"])
    return lambda token, first: replace(token)


def _strip(spec: Document) -> Step:
    chosen = settings(spec, "decoder", {"content": " ", "start": 0, "stop": 0})
    content, start, stop = chosen["content"], chosen["start"], chosen["stop"]

    def step(token: str, first: bool) -> str:
        begin = 0
        while begin < min(start, len(token)) and token[begin] == content:
            begin += 1
        end = len(token)
        while len(token) - end < stop and end > begin and token[end - 1] == content:
            end -= 1
        return token[begin:end]

    return step


_STEPS: dict[str | None, Callable[[Document], Step]] = {
    None: _joined_by_spaces,
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Strip": _strip,
    "WordPiece": _word_piece,
}

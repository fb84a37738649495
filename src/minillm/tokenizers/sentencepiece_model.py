"""What a SentencePiece `.model` file holds.

Source: google/sentencepiece `sentencepiece_model.proto` (names and numbers of the fields).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from minillm.quantities import counted

from .protobuf import fields

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = "unigram", "bpe"
_KINDS = {1: UNIGRAM, 2: BPE, 3: "word", 4: "char"}
_ROLES = {40: "unk", 41: "bos", 42: "eos", 43: "pad"}


class PieceModel(NamedTuple):
    """Pieces by id with `▁` for a space, their scores and types, and what is done before.

    `charsmap` is a table of `precompiled.CharsMap`, b"" for none. `roles` are the ids of the
    control tokens "unk", "bos", "eos" and "pad", as far as there are any.
    """

    kind: str
    pieces: list[str]
    scores: list[float]
    types: list[int]
    roles: dict[str, int]
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    byte_fallback: bool = False


def parse(data: bytes) -> PieceModel:
    """Read a whole file; ValueError for a damaged one and for settings that are not supported."""
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in fields(data):
        if number == 1:
            piece, score, type = _piece(_message(value))
            pieces.append(piece)
            scores.append(score)
            types.append(type)
        elif number == 2:
            trainer |= dict(fields(_message(value)))
        elif number == 3:
            normalizer |= dict(fields(_message(value)))
        elif number == 5 and dict(fields(_message(value))).get(2):
            raise ValueError("a denormalizer is not supported")
    if not pieces:
        raise ValueError(
            f"{counted(len(data), 'byte')} hold no piece, a SentencePiece model is needed"
        )
    return _checked(pieces, scores, types, trainer, normalizer)


def _checked(
    pieces: list[str],
    scores: list[float],
    types: list[int],
    trainer: dict[int, int | bytes],
    normalizer: dict[int, int | bytes],
) -> PieceModel:
    kind = _KINDS.get(int(trainer.get(3, 1)), "")
    if kind not in (UNIGRAM, BPE):
        raise ValueError(f"model type {kind or trainer[3]!r} is not supported, unigram or bpe is")
    if trainer.get(24):
        raise ValueError("treat_whitespace_as_suffix is not supported")
    if not normalizer.get(5, 1):
        raise ValueError("escape_whitespaces = false is not supported")
    roles = {}
    for number, role in _ROLES.items():
        default = {"unk": 0, "bos": 1, "eos": 2, "pad": -1}[role]
        id = _signed(int(trainer.get(number, default)))
        if 0 <= id < len(pieces) and types[id] in (CONTROL, UNKNOWN):
            roles[role] = id
    if UNKNOWN in types:
        roles["unk"] = types.index(UNKNOWN)
    charsmap = normalizer.get(2, b"")
    return PieceModel(
        kind,
        pieces,
        scores,
        types,
        roles,
        _message(charsmap),
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(4, 1)),
        bool(trainer.get(35, 0)),
    )


def _piece(data: bytes) -> tuple[str, float, int]:
    piece, score, type = "", 0.0, NORMAL
    for number, value in fields(data):
        if number == 1:
            piece = _message(value).decode("utf-8")
        elif number == 2:
            score = struct.unpack("<f", _message(value))[0]
        elif number == 3:
            type = int(value)
    if not piece or not NORMAL <= type <= BYTE:
        raise ValueError(
            f"piece {piece!r} of type {type}, a text and a type from 1 to 6 are needed"
        )
    return piece, score, type


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"a number {value} where a text or a message is needed")
    return value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value

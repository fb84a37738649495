"""The tensor types of GGUF as array code: blocks of small whole numbers that share a scale.

Source: the block layouts of ggml (ggml-common.h); all values are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from minillm.arrays import Array, xp_of

CHUNK = 1 << 16  # numbers decoded at once: with what they are made of, within the second cache
GPU_CHUNK = 1 << 22  # on a GPU, where each operation has to be worth a launch

Decode = Callable[[Any, Array], None]


class Kind(NamedTuple):
    """A tensor type: `elements` numbers of a row are one `layout`, a packed NumPy dtype."""

    name: str
    id: int
    elements: int
    layout: numpy.dtype[Any]
    decode: Decode  # the fields of n blocks, float32 (n, elements) to be filled

    @property
    def block_bytes(self) -> int:
        return self.layout.itemsize


def decode(kind: Kind, raw: Array, out: Array) -> None:
    """Write the numbers of `raw`, bytes (n,), to `out`, float32 and contiguous, where both lie.

    NaN and infinite scales give what float32 arithmetic gives, without a warning.
    """
    blocks = raw.reshape(-1, kind.block_bytes)
    if out.size != len(blocks) * kind.elements or not out.flags.c_contiguous:
        raise ValueError(f"decode: {out.shape} numbers wanted of {len(blocks)} {kind.name} blocks")
    numbers = out.reshape(-1, kind.elements)
    step = chunk(xp_of(raw)) // kind.elements
    with numpy.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(blocks), step):
            part = blocks[start : start + step]
            kind.decode(_fields(kind.layout, part), numbers[start : start + step])


def chunk(xp: ModuleType) -> int:
    """How many numbers are best decoded at once."""
    return CHUNK if xp is numpy else GPU_CHUNK


def _fields(layout: numpy.dtype[Any], blocks: Array) -> Any:
    """The parts of blocks, bytes (n, bytes of one), by name; CuPy has no such dtypes."""
    if layout.fields is None:
        return blocks.view(layout)
    parts = {}
    for name, (kind, start, *_) in layout.fields.items():
        part = blocks[:, start : start + kind.itemsize]
        if kind.base.itemsize > 1:  # as CuPy's `view` needs it
            part = xp_of(part).ascontiguousarray(part)
        parts[name] = part.view(kind.base) if kind.shape else part.view(kind.base)[:, 0]
    return parts


def decode_rows(name: str, raw: Array) -> Array:
    """The numbers float32 (..., k) of rows of blocks, bytes (..., bytes of a row)."""
    kind, xp = KINDS[name], xp_of(raw)
    out = xp.empty((*raw.shape[:-1], row_length(name, raw)), numpy.float32)
    decode(kind, xp.ascontiguousarray(raw).reshape(-1), out)
    return out


def row_length(name: str, raw: Array) -> int:
    """How many numbers a row of `raw`, bytes (..., bytes of a row), holds."""
    kind = KINDS[name]
    return int(raw.shape[-1] // kind.block_bytes * kind.elements)


def _decode_plain(blocks: Any, out: Array) -> None:
    out[...] = blocks


def _decode_bf16(blocks: Any, out: Array) -> None:
    out.view(numpy.uint32)[...] = blocks.astype(numpy.uint32) << 16


def _column(scale: Array) -> Array:
    """One float32 for each block, to be multiplied with its row."""
    return scale.astype(numpy.float32)[:, None]


def _nibbles(packed: Array, out: Array) -> None:
    """The low halves of bytes (..., w) to the first w of `out` (..., 2 w), the high ones after."""
    width = packed.shape[-1]
    out[..., :width] = packed & 15
    out[..., width:] = packed >> 4


def _decode_q4_0(blocks: Any, out: Array) -> None:
    _nibbles(blocks["q"], out)
    out -= 8
    out *= _column(blocks["d"])


def _decode_q4_1(blocks: Any, out: Array) -> None:
    _nibbles(blocks["q"], out)
    out *= _column(blocks["d"])
    out += _column(blocks["m"])


def _fifth_bits(blocks: Any) -> Array:
    """16 or 0 for each number, (n, 32)."""
    return xp_of(blocks["h"]).unpackbits(blocks["h"], bitorder="little").reshape(-1, 32) << 4


def _decode_q5_0(blocks: Any, out: Array) -> None:
    _nibbles(blocks["q"], out)
    out += _fifth_bits(blocks)
    out -= 16
    out *= _column(blocks["d"])


def _decode_q5_1(blocks: Any, out: Array) -> None:
    _nibbles(blocks["q"], out)
    out += _fifth_bits(blocks)
    out *= _column(blocks["d"])
    out += _column(blocks["m"])


def _decode_q8_0(blocks: Any, out: Array) -> None:
    out[...] = blocks["q"]
    out *= _column(blocks["d"])


def _scale_groups(blocks: Any, out: Array) -> None:
    """out (n, 8, 32) times a scale, minus an offset, for each group; both six bits of 12 bytes."""
    xp = xp_of(out)
    first, second, rest = (blocks["s"][:, start : start + 4] for start in (0, 4, 8))
    scales = xp.concatenate([first & 63, (rest & 15) | ((first >> 2) & 48)], axis=1)
    offsets = xp.concatenate([second & 63, (rest >> 4) | ((second >> 2) & 48)], axis=1)
    out *= (_column(blocks["d"]) * scales.astype(numpy.float32))[:, :, None]
    out -= (_column(blocks["m"]) * offsets.astype(numpy.float32))[:, :, None]


def _decode_q4_k(blocks: Any, out: Array) -> None:
    count = len(out)
    _nibbles(blocks["q"].reshape(count, 4, 32), out.reshape(count, 4, 64))
    _scale_groups(blocks, out.reshape(count, 8, 32))


def _decode_q5_k(blocks: Any, out: Array) -> None:
    count = len(out)
    _nibbles(blocks["q"].reshape(count, 4, 32), out.reshape(count, 4, 64))
    groups = out.reshape(count, 8, 32)
    for group in range(8):
        groups[:, group] += (blocks["h"] >> group & 1) << 4
    _scale_groups(blocks, groups)


def _decode_q6_k(blocks: Any, out: Array) -> None:
    count = len(out)
    low, high = blocks["q"].reshape(count, 2, 64), blocks["h"].reshape(count, 2, 32)
    groups = out.reshape(count, 2, 4, 32)
    for group in range(4):
        half = low[:, :, 32 * (group % 2) : 32 * (group % 2) + 32] >> (4 * (group // 2))
        groups[:, :, group] = (half & 15) | (high >> (2 * group) & 3) << 4
    out -= 32
    scales = _column(blocks["d"]) * blocks["s"].astype(numpy.float32)
    out.reshape(count, 16, 16)[...] *= scales[:, :, None]


def _layout(*fields: tuple[str, str, int]) -> numpy.dtype[Any]:
    return numpy.dtype(
        [(name, kind, (size,)) if size > 1 else (name, kind) for name, kind, size in fields]
    )


_D, _M = ("d", "<f2", 1), ("m", "<f2", 1)  # scale, and what is added or taken away

KINDS = {
    kind.name: kind
    for kind in (
        Kind("F32", 0, 1, numpy.dtype("<f4"), _decode_plain),
        Kind("F16", 1, 1, numpy.dtype("<f2"), _decode_plain),
        Kind("Q4_0", 2, 32, _layout(_D, ("q", "u1", 16)), _decode_q4_0),
        Kind("Q4_1", 3, 32, _layout(_D, _M, ("q", "u1", 16)), _decode_q4_1),
        Kind("Q5_0", 6, 32, _layout(_D, ("h", "u1", 4), ("q", "u1", 16)), _decode_q5_0),
        Kind("Q5_1", 7, 32, _layout(_D, _M, ("h", "u1", 4), ("q", "u1", 16)), _decode_q5_1),
        Kind("Q8_0", 8, 32, _layout(_D, ("q", "i1", 32)), _decode_q8_0),
        Kind("Q4_K", 12, 256, _layout(_D, _M, ("s", "u1", 12), ("q", "u1", 128)), _decode_q4_k),
        Kind(
            "Q5_K",
            13,
            256,
            _layout(_D, _M, ("s", "u1", 12), ("h", "u1", 32), ("q", "u1", 128)),
            _decode_q5_k,
        ),
        Kind(
            "Q6_K",
            14,
            256,
            _layout(("q", "u1", 128), ("h", "u1", 64), ("s", "i1", 16), _D),
            _decode_q6_k,
        ),
        Kind("BF16", 30, 1, numpy.dtype("<u2"), _decode_bf16),
    )
}  # fmt: skip

OTHER_KINDS = {  # types that ggml has and this file does not
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
}

"""float32 to the tensor types of GGUF that are written: rounding, and the scale of each block.

Source: the reference quantisation of ggml (ggml-quants.c), with which the bytes are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy

from minillm.arrays import Array
from minillm.blocks import CHUNK, KINDS


def encode(kind: str, numbers: Array) -> Iterator[Array]:
    """Blocks of `kind`, one of ENCODERS, for the numbers of an array whose rows are whole blocks.

    They come in pieces, so that an array may be larger than the memory left. ValueError where a
    number becomes infinite, or is not finite and has to share a scale.
    """
    elements = KINDS[kind].elements
    flat = numpy.ascontiguousarray(numbers).reshape(-1, elements)
    step = CHUNK // elements
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        with numpy.errstate(all="ignore"):
            blocks = ENCODERS[kind](piece.astype(numpy.float32))
            held = _held(blocks)
        if not held:
            largest = numpy.abs(piece).max()
            raise ValueError(f"numbers up to {largest:.4g} cannot be held in {kind}")
        yield blocks.reshape(-1)


def _held(blocks: Array) -> bool:
    """Whether all scales are finite."""
    names = blocks.dtype.names or ()
    return all(numpy.isfinite(blocks[name]).all() for name in ("d", "m") if name in names)


def _encode_f32(x: Array) -> Array:
    return x.astype("<f4")


def _encode_f16(x: Array) -> Array:
    half = x.astype("<f2")
    if numpy.isinf(half).sum() != numpy.isinf(x).sum():
        raise ValueError(
            f"numbers up to {numpy.abs(x[numpy.isfinite(x)]).max():.4g} cannot be held in F16"
        )
    return half


def round_bf16(x: Array) -> Array:
    """float32 to the words of bfloat16, uint16, ties to even; NaN stays NaN."""
    bits = numpy.ascontiguousarray(x, numpy.float32).view(numpy.uint32)
    rounded = bits + (numpy.uint32(0x7FFF) + (bits >> 16 & 1))
    return (numpy.where(numpy.isnan(x), bits | 1 << 22, rounded) >> 16).astype("<u2")


def _blocks(kind: str, count: int) -> Array:
    return numpy.empty(count, KINDS[kind].layout)


def _inverse(scale: Array) -> Array:
    """1 / scale, and 0 where that is not finite."""
    inverse = 1 / scale
    return numpy.where(numpy.isfinite(inverse), inverse, 0).astype(numpy.float32)


def _packed(x: Array) -> Array:
    """Numbers (n, 32) cut to whole numbers 0 to 15, in bytes (n, 16)."""
    whole = numpy.minimum(x, 15).astype(numpy.uint8)
    return whole[:, :16] | whole[:, 16:] << 4


def _encode_q4_0(x: Array) -> Array:
    out = _blocks("Q4_0", len(x))
    place = numpy.abs(x).argmax(axis=1)[:, None]
    scale = numpy.take_along_axis(x, place, axis=1) / -8  # the largest becomes exactly -8
    out["d"] = scale[:, 0]
    out["q"] = _packed(x * _inverse(scale) + numpy.float32(8.5))
    return out


def _encode_q4_1(x: Array) -> Array:
    out = _blocks("Q4_1", len(x))
    least = x.min(axis=1, keepdims=True)
    scale = (x.max(axis=1, keepdims=True) - least) / 15
    out["d"], out["m"] = scale[:, 0], least[:, 0]
    out["q"] = _packed((x - least) * _inverse(scale) + numpy.float32(0.5))
    return out


def _encode_q8_0(x: Array) -> Array:
    out = _blocks("Q8_0", len(x))
    scale = numpy.abs(x).max(axis=1, keepdims=True) / 127
    out["d"] = scale[:, 0]
    x = x * _inverse(scale)
    whole = numpy.trunc(x)
    out["q"] = whole + numpy.trunc(2 * (x - whole))  # halves away from zero
    return out


ENCODERS: dict[str, Callable[[Array], Array]] = {
    "F32": _encode_f32,
    "F16": _encode_f16,
    "BF16": round_bf16,
    "Q8_0": _encode_q8_0,
    "Q4_0": _encode_q4_0,
    "Q4_1": _encode_q4_1,
}

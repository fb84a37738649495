"""float32 to the tensor types of GGUF that are written: rounding, and the scale of each block.

Source: the reference quantisation of ggml (ggml-quants.c), with which the bytes are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy

from minillm.arrays import Array, xp_of
from minillm.blocks import CHUNK, KINDS
from minillm.formats.superblock_encoding import SUPERBLOCK_ENCODERS


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
        if not _held(blocks, piece):
            largest = numpy.abs(piece).max()
            raise ValueError(f"numbers up to {largest:.4g} cannot be held in {kind}")
        yield blocks.reshape(-1)


def _held(blocks: Array, numbers: Array) -> bool:
    """Whether all numbers that share a scale, and all scales, are finite."""
    names = blocks.dtype.names or ()
    scales = [blocks[name] for name in ("d", "m") if name in names]
    return not scales or all(numpy.isfinite(array).all() for array in (numbers, *scales))


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
    xp = xp_of(x)
    bits = xp.ascontiguousarray(x, xp.float32).view(xp.uint32)
    rounded = bits + (xp.uint32(0x7FFF) + (bits >> 16 & 1))
    return (xp.where(xp.isnan(x), bits | 1 << 22, rounded) >> 16).astype("<u2")


def _blocks(kind: str, count: int) -> Array:
    return numpy.empty(count, KINDS[kind].layout)


def _inverse(scale: Array) -> Array:
    """1 / scale, and 0 where that is not finite."""
    inverse = 1 / scale
    return numpy.where(numpy.isfinite(inverse), inverse, 0).astype(numpy.float32)


def _centred(x: Array, half: int) -> tuple[Array, Array]:
    """Scale of each block, by which its largest number is -half, and whole numbers above that."""
    place = numpy.abs(x).argmax(axis=1)[:, None]
    scale = numpy.take_along_axis(x, place, axis=1) / -half
    whole = x * _inverse(scale) + numpy.float32(half + 0.5)
    return scale[:, 0], numpy.minimum(whole, 2 * half - 1).astype(numpy.uint8)


def _shifted(x: Array, most: int) -> tuple[Array, Array, Array]:
    """Scale and least number of each block, and whole numbers from 0 to `most`."""
    least = x.min(axis=1, keepdims=True)
    scale = (x.max(axis=1, keepdims=True) - least) / most
    whole = (x - least) * _inverse(scale) + numpy.float32(0.5)
    return scale[:, 0], least[:, 0], numpy.minimum(whole, most).astype(numpy.uint8)


def _nibbles(whole: Array) -> Array:
    """The low four bits of (n, 32) in bytes (n, 16)."""
    return whole[:, :16] & 15 | whole[:, 16:] << 4


def _fifth_bits(whole: Array) -> Array:
    return numpy.packbits(whole >> 4, axis=1, bitorder="little")


def _encode_q4_0(x: Array) -> Array:
    out = _blocks("Q4_0", len(x))
    out["d"], whole = _centred(x, 8)
    out["q"] = _nibbles(whole)
    return out


def _encode_q4_1(x: Array) -> Array:
    out = _blocks("Q4_1", len(x))
    out["d"], out["m"], whole = _shifted(x, 15)
    out["q"] = _nibbles(whole)
    return out


def _encode_q5_0(x: Array) -> Array:
    out = _blocks("Q5_0", len(x))
    out["d"], whole = _centred(x, 16)
    out["q"], out["h"] = _nibbles(whole), _fifth_bits(whole)
    return out


def _encode_q5_1(x: Array) -> Array:
    out = _blocks("Q5_1", len(x))
    out["d"], out["m"], whole = _shifted(x, 31)
    out["q"], out["h"] = _nibbles(whole), _fifth_bits(whole)
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
    "Q5_0": _encode_q5_0,
    "Q5_1": _encode_q5_1,
    **SUPERBLOCK_ENCODERS,
}

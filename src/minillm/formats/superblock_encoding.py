"""float32 to the K types of GGUF: 256 numbers whose groups have scales that are small numbers too.

For each group several scales are tried, and the one with the least weighted error is kept. Arrays
are (numbers of a group, groups): sums along the first axis add number after number, as the source
does, so that what is nearly equal is decided in the same way.
Source: the reference quantisation of ggml (ggml-quants.c), with which the bytes are equal.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy

from minillm.arrays import Array
from minillm.blocks import KINDS

LEAST = numpy.float32(1e-15)  # a group of smaller numbers is zero
SCALES, HALF = 63, 32  # largest scale of a group in six bits; numbers of Q6_K lie around it


def _groups(x: Array, size: int) -> Array:
    """(size, groups) of the numbers of blocks (n, 256)."""
    return numpy.ascontiguousarray(x.reshape(-1, size).T)


def _whole(x: Array, least: int, most: int) -> Array:
    """Rounded to even and cut, in the memory of `x`."""
    numpy.rint(x, out=x)
    numpy.maximum(x, least, out=x)
    return numpy.minimum(x, most, out=x)


def _sum(x: Array) -> Array:
    return numpy.add.reduce(x, axis=0)


def _ratio(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0."""
    return numpy.where(b == 0, 0, a / b).astype(numpy.float32)


def _fitted(x: Array, weight: Array, whole: Array) -> tuple[Array, Array, Array]:
    """Scale and offset, at most 0, by weighted least squares, and where there is a solution."""
    weights, weighted = _sum(weight), _sum(weight * x)
    part = weight * whole
    sum_l, sum_xl = _sum(part), _sum(part * x)
    part *= whole
    sum_l2 = _sum(part)
    divisor = weights * sum_l2 - sum_l * sum_l
    scale = _ratio(weights * sum_xl - weighted * sum_l, divisor)
    low = _ratio(sum_l2 * weighted - sum_l * sum_xl, divisor)
    scale = numpy.where(low > 0, _ratio(sum_xl, sum_l2), scale)
    return scale, numpy.minimum(low, 0), divisor > 0


def _error(x: Array, weight: Array, whole: Array, scale: Array, low: Array) -> Array:
    off = scale * whole
    off += low
    off -= x
    off *= off
    off *= weight
    return _sum(off)


def _shifted_scales(x: Array, most: int, first: float, tries: int) -> tuple[Array, Array, Array]:
    """Scale and offset of each group for whole numbers from 0 to `most`, and those numbers.

    Tried are `most` + `first` steps between the offset and the largest number, then 0.1 more.
    """
    weight = numpy.abs(x) + numpy.sqrt(_sum(x * x) / 32)
    low, high = numpy.minimum(x.min(axis=0), 0), x.max(axis=0)
    constant = high == low

    def numbers(steps: Array, low: Array) -> Array:
        whole = x - low
        whole *= steps
        return _whole(whole, 0, most)

    steps, begin = _ratio(numpy.float32(most), high - low), low
    scale = _ratio(numpy.float32(1), steps)
    least = _error(x, weight, numbers(steps, low), scale, low)
    for place in range(tries + 1):
        wanted = numpy.float32(first) + numpy.float32(0.1) * numpy.float32(place)
        tried = _ratio(wanted + numpy.float32(most), high - low)
        whole = numbers(tried, low)
        new_scale, new_low, solved = _fitted(x, weight, whole)
        error = _error(x, weight, whole, new_scale, new_low)
        better = solved & (error < least) & ~constant
        steps, begin = numpy.where(better, tried, steps), numpy.where(better, low, begin)
        scale, low = numpy.where(better, new_scale, scale), numpy.where(better, new_low, low)
        least = numpy.where(better, error, least)
    return numpy.where(constant, 0, scale), -low, numbers(steps, begin)


def _encode_shifted(
    kind: str, x: Array, most: int, first: float, tries: int
) -> tuple[Array, Array]:
    """Blocks with their scales, and the numbers (n, 256) that are yet to be packed."""
    out = numpy.empty(len(x), KINDS[kind].layout)
    groups = _groups(x, 32)
    scale, offset, whole = _shifted_scales(groups, most, first, tries)
    small = []
    for name, values in (("d", scale), ("m", offset)):
        values = values.reshape(-1, 8)
        largest = numpy.maximum(values.max(axis=1, keepdims=True), 0)
        out[name] = largest[:, 0] / SCALES
        factors = _ratio(numpy.float32(SCALES), largest)
        small.append(numpy.minimum(numpy.rint(factors * values), SCALES).astype(numpy.uint8))
    out["s"] = _packed_scales(*small)
    d, m = (
        (out[name].astype(numpy.float32)[:, None] * values).reshape(-1)
        for name, values in zip("dm", small)
    )
    exact = _whole((groups + m) / numpy.where(d == 0, 1, d), 0, most)
    numbers: Array = numpy.where(d == 0, whole, exact)
    return out, numbers.T.astype(numpy.uint8).reshape(-1, 256)


def _packed_scales(scale: Array, offset: Array) -> Array:
    """Six bits of eight scales and eight offsets (n, 8) in bytes (n, 12)."""
    first, second = scale[:, :4], offset[:, :4]
    high_scale, high_offset = scale[:, 4:], offset[:, 4:]
    return numpy.concatenate(
        [
            first | high_scale >> 4 << 6,
            second | high_offset >> 4 << 6,
            high_scale & 15 | (high_offset & 15) << 4,
        ],
        axis=1,
    )


def _nibbles(numbers: Array) -> Array:
    """Groups of 32 of (n, 256), two in a byte each."""
    pairs = numbers.reshape(-1, 4, 2, 32)
    return (pairs[:, :, 0] & 15 | pairs[:, :, 1] << 4).reshape(-1, 128)


def _encode_q4_k(x: Array) -> Array:
    out, numbers = _encode_shifted("Q4_K", x, 15, -1.0, 20)
    out["q"] = _nibbles(numbers)
    return out


def _encode_q5_k(x: Array) -> Array:
    out, numbers = _encode_shifted("Q5_K", x, 31, -0.5, 15)
    out["q"] = _nibbles(numbers)
    fifth = (numbers >> 4).reshape(-1, 8, 32)
    out["h"] = numpy.packbits(fifth, axis=1, bitorder="little")[:, 0]
    return out


def _largest(x: Array) -> Array:
    """The number of each column that is furthest from 0, the first of equals."""
    return numpy.take_along_axis(x, numpy.abs(x).argmax(axis=0)[None], axis=0)[0]


def _centred_scales(x: Array) -> tuple[Array, Array]:
    """Scale of each group for numbers from -32 to 31, and those plus 32; 0 for a group of zeros."""
    largest = _largest(x)
    zero = numpy.abs(largest) < LEAST
    weighted = x * x
    weighted *= x
    weight = x * x
    scale = best = steps = numpy.zeros_like(largest)
    for place in (0, *range(-9, 0), *range(1, 10)):
        factor = HALF + numpy.float32(0.1) * numpy.float32(place)
        tried = _ratio(-numpy.float32(factor), largest)
        whole = _whole(x * tried, -HALF, HALF - 1)
        sum_lx = _sum(weighted * whole)
        part = weight * whole
        part *= whole
        sum_l2 = _sum(part)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2) if place else ~zero
        steps = numpy.where(better, tried, steps)
        scale = numpy.where(better, _ratio(sum_lx, sum_l2), scale)
        best = numpy.where(better, scale * sum_lx, best)
    numbers = _whole(x * steps, -HALF, HALF - 1) + HALF
    return numpy.where(zero, 0, scale), numpy.where(zero, 0, numbers)


def _encode_q6_k(x: Array) -> Array:
    out = numpy.empty(len(x), KINDS["Q6_K"].layout)
    groups = _groups(x, 16)
    scale, whole = _centred_scales(groups)
    scale = scale.reshape(-1, 16)
    largest = _largest(scale.T)
    zero = numpy.abs(largest) < LEAST
    factor = numpy.where(zero, 0, -128 / largest).astype(numpy.float32)
    out["d"] = _ratio(numpy.float32(1), factor)
    out["s"] = numpy.minimum(numpy.rint(factor[:, None] * scale), 127)
    d = (out["d"].astype(numpy.float32)[:, None] * out["s"].astype(numpy.float32)).reshape(-1)
    exact = _whole(groups / numpy.where(d == 0, 1, d), -HALF, HALF - 1) + HALF
    numbers = numpy.where(d == 0, whole, exact).T.astype(numpy.uint8).reshape(-1, 256)
    numbers[zero] = 0
    quarters = numbers.reshape(-1, 2, 4, 32)  # of each half; the low bits of two in a byte
    out["q"] = (quarters[:, :, :2] & 15 | quarters[:, :, 2:] << 4).reshape(-1, 128)
    high = (quarters >> 4) << numpy.array([0, 2, 4, 6], numpy.uint8)[:, None]
    out["h"] = numpy.bitwise_or.reduce(high, axis=2).reshape(-1, 64)
    return out


SUPERBLOCK_ENCODERS: dict[str, Callable[[Array], Array]] = {
    "Q4_K": _encode_q4_k,
    "Q5_K": _encode_q5_k,
    "Q6_K": _encode_q6_k,
}

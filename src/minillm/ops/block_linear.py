"""The linear layer whose weight stays as the blocks of a file."""

from __future__ import annotations

import math

import numpy

from minillm import kernels
from minillm.blocks import KINDS, chunk, decode_rows, row_length
from minillm.op import Op
from minillm.ops.arith import sum_rows
from minillm.ops.linear import check_residual, rows_of

ROUNDED = 2.0**-15
DECODED = 1 << 20  # numbers of a weight at least decoded at once for a product by a kernel


def block_linear_forward(xp, x, blocks, bias=None, residual=None, *, kind):
    """x @ decoded(blocks).T + bias + residual

    x (..., in), blocks bytes (out, bytes of a row), of the type `kind` in minillm.blocks; bias
    (out), residual (..., out) as the result. Never more than a few rows of the weight are decoded
    at once.

    Kernels may round x to 16 bits: within each 32 of a row the largest becomes 32639. That moves
    what they read by at most 2^-16 of the largest; the sums of a block are then exact. With
    fewer than 32 rows, none of them changes the bits of another.
    """
    out = xp.empty((*x.shape[:-1], len(blocks)), x.dtype)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    sums = out.reshape(len(rows), len(blocks))
    for start, weight in _pieces(xp, blocks, kind, x.dtype, chunk(xp)):
        xp.matmul(rows, weight.T, out=sums[:, start : start + len(weight)])
    if bias is not None:
        out += bias
    if residual is not None:
        out += residual
    return out, (blocks, bias is not None, residual is not None)


def block_linear_backward(xp, grad, saved, *, kind):
    blocks, has_bias, has_residual = saved
    dx = xp.zeros((*grad.shape[:-1], row_length(kind, blocks)), grad.dtype)
    for start, weight in _pieces(xp, blocks, kind, grad.dtype, chunk(xp)):
        dx += xp.matmul(grad[..., start : start + len(weight)], weight)
    dbias = sum_rows(xp, grad.reshape(-1, grad.shape[-1])) if has_bias else None
    return dx, None, dbias, grad if has_residual else None


def _pieces(xp, blocks, kind, dtype, numbers, opened=decode_rows):
    """(first row, opened rows) of the weight, in turn, about so many numbers at once."""
    if kind == "F32" and dtype == xp.float32:
        yield 0, xp.ascontiguousarray(blocks).view(xp.float32)
        return
    step = max(1, numbers // max(1, row_length(kind, blocks)))
    for start in range(0, len(blocks), step):
        yield start, xp.asarray(opened(kind, blocks[start : start + step]), dtype)


def opener(lib, xp):
    """What opens whole rows of blocks: a kernel where there is one."""
    if not hasattr(lib, "block_embedding_forward"):
        return decode_rows

    def opened(kind, blocks):
        out = xp.empty((len(blocks), row_length(kind, blocks)), xp.float32)
        lib.block_embedding_forward(KINDS[kind].id, xp.ascontiguousarray(blocks), None, out)
        return out

    return opened


def block_linear_check(x, blocks, bias=None, residual=None, *, kind):
    if kind not in KINDS:
        raise ValueError(f"block_linear: kind={kind!r}, one of {', '.join(KINDS)} is needed")
    if blocks.dtype != numpy.uint8 or blocks.ndim != 2:
        raise TypeError(
            f"block_linear: blocks {blocks.shape} of {blocks.dtype}, uint8 (out, bytes) is needed"
        )
    size, width = KINDS[kind], x.shape[-1] if x.ndim else 1
    if width % size.elements or not x.ndim:
        raise ValueError(
            f"block_linear: x {x.shape}, (..., in) with a multiple of {size.elements} for {kind} "
            "is needed"
        )
    needed = width // size.elements * size.block_bytes
    if blocks.shape[1] != needed:
        raise ValueError(
            f"block_linear: x {x.shape} and {kind} blocks {blocks.shape}, {needed} bytes a row are "
            "needed"
        )
    if bias is not None and bias.shape != blocks.shape[:1]:
        raise ValueError(f"block_linear: bias {bias.shape}, {blocks.shape[:1]} is needed")
    check_residual("block_linear", residual, x, blocks)


def block_linear_kernel_forward(lib, xp, x, blocks, bias=None, residual=None, *, kind):
    if x.dtype != xp.float32:
        return NotImplemented
    out = xp.empty((*x.shape[:-1], len(blocks)), x.dtype)
    if kind == "F32" and x.size >= kernels.MANY_ROWS * x.shape[-1]:
        lib.linear_forward(
            rows_of(xp, x),
            xp.ascontiguousarray(blocks).view(xp.float32),
            None if bias is None else xp.ascontiguousarray(bias),
            None if residual is None else rows_of(xp, residual),
            rows_of(xp, out),
        )
        return out, (blocks, bias is not None, residual is not None)
    lib.block_linear_forward(
        KINDS[kind].id,
        xp.ascontiguousarray(blocks),
        rows_of(xp, x),
        None if bias is None else xp.ascontiguousarray(bias),
        None if residual is None else rows_of(xp, residual),
        rows_of(xp, out),
    )
    return out, (blocks, bias is not None, residual is not None)


def block_linear_kernel_backward(lib, xp, grad, saved, *, kind):
    blocks, has_bias, has_residual = saved
    if grad.dtype != xp.float32:
        return NotImplemented
    width = row_length(kind, blocks)
    rows = rows_of(xp, grad)
    dx = xp.zeros((len(rows), width), grad.dtype)
    numbers = max(DECODED, chunk(xp))
    for start, weight in _pieces(xp, blocks, kind, grad.dtype, numbers, opener(lib, xp)):
        part = rows[:, start : start + len(weight)]
        if len(weight) == len(blocks):
            lib.matmul_forward(part, weight, dx)
        else:
            product = xp.empty_like(dx)
            lib.matmul_forward(part, weight, product)
            dx += product
    dbias = sum_rows(xp, rows) if has_bias else None
    return dx.reshape(*grad.shape[:-1], width), None, dbias, grad if has_residual else None


def block_linear_sample(draw):
    kind = draw.choice(list(KINDS))
    rows, inner, outer = draw.size("T"), draw.size("C", low=1), draw.size("N", low=1)
    elements = KINDS[kind].elements
    if elements > 1:  # some blocks, also where the length is short
        inner = elements * (1 + 8 * inner // elements)
    batch = draw.choice(((), (draw.size("B"),)))
    return [
        draw.normal(*batch, rows, inner),
        random_blocks(draw, kind, outer, inner),
        draw.normal(outer) if draw.boolean() else None,
        draw.normal(*batch, rows, outer) if draw.choice((False, False, True)) else None,
    ], {"kind": kind}


def random_blocks(draw, kind, rows, width):
    """Bytes (rows, bytes of a row): any numbers, the scales of either sign and below one."""
    size = KINDS[kind]
    count = rows * (width // size.elements)
    if size.layout.names is None:
        numbers = draw.normal(count).astype(numpy.float32)
        if kind == "BF16":
            numbers = numbers.view(numpy.uint32) >> 16
        return numbers.astype(size.layout).view(numpy.uint8).reshape(rows, -1)
    raw = draw.integers(256, count, size.block_bytes).astype(numpy.uint8)
    blocks = raw.view(size.layout)[:, 0]
    for name in ("d", "m"):  # in this order: the same draw gives the same blocks
        if name in size.layout.names:
            blocks[name] = draw.normal(count) / 16
    return raw.reshape(rows, -1)


block_linear = Op(
    block_linear_forward,
    block_linear_backward,
    block_linear_sample,
    check=block_linear_check,
    kernel_forward=block_linear_kernel_forward,
    kernel_backward=block_linear_kernel_backward,
    constant=(1,),
    rounds={0: ROUNDED},
)

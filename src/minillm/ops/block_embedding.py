"""The embedding whose weight stays as the blocks of a file."""

from __future__ import annotations

from minillm.blocks import KINDS, decode_rows, row_length
from minillm.op import Op
from minillm.ops.block_linear import random_blocks
from minillm.ops.linear import check_ids


def block_embedding_forward(xp, blocks, ids, *, kind):
    """decoded(blocks)[ids]

    blocks bytes (V, bytes of a row) of the type `kind` in minillm.blocks, ids integers of any
    shape, 0 <= id < V (IndexError). Only the rows asked for are decoded.
    """
    return decode_rows(kind, blocks[ids]), ()


def block_embedding_check(blocks, ids, *, kind):
    if kind not in KINDS:
        raise ValueError(f"block_embedding: kind={kind!r}, one of {', '.join(KINDS)} is needed")
    size = KINDS[kind].block_bytes
    if blocks.dtype != "uint8" or blocks.ndim != 2 or blocks.shape[1] % size:
        raise TypeError(
            f"block_embedding: blocks {blocks.shape} of {blocks.dtype}, uint8 (V, bytes of a row, "
            f"a multiple of {size} for {kind}) is needed"
        )
    check_ids("block_embedding", ids, len(blocks))


def block_embedding_kernel_forward(lib, xp, blocks, ids, *, kind):
    width = row_length(kind, blocks)
    rows = xp.empty((ids.size, width), xp.float32)
    wanted = xp.ascontiguousarray(ids, dtype=xp.int64).reshape(-1)
    lib.block_embedding_forward(KINDS[kind].id, xp.ascontiguousarray(blocks), wanted, rows)
    return rows.reshape(*ids.shape, width), ()


def block_embedding_sample(draw):
    kind, size = draw.choice(list(KINDS)), draw.size("V", low=1)
    width = KINDS[kind].elements * draw.choice((1, 3))
    ids = draw.integers(size, *draw.shape(dims=draw.choice((0, 1, 2))))
    return [random_blocks(draw, kind, size, width), ids], {"kind": kind}


block_embedding = Op(
    block_embedding_forward,
    None,
    block_embedding_sample,
    check=block_embedding_check,
    kernel_forward=block_embedding_kernel_forward,
)

"""Shapes, pieces and joins. The results share memory with the input where NumPy's do."""

from __future__ import annotations

import types

import numpy

from minillm.arrays import is_array, scatter_add
from minillm.op import Op
from minillm.ops.arith import unbroadcast

BASIC = (int, numpy.integer, slice, types.EllipsisType)


def reshape_forward(xp, x, *, shape):
    """x in another shape; one length may be -1"""
    return x.reshape(shape), (x.shape,)


def reshape_backward(xp, grad, saved, *, shape):
    return (grad.reshape(saved[0]),)


def reshape_sample(draw):
    x = draw.normal(*draw.shape())
    shape = draw.choice(((x.size,), (1, x.size), (x.size, 1), x.shape))
    return [x], {"shape": shape}


def permute_forward(xp, x, *, axes):
    """x with its axes in another order"""
    return x.transpose(axes), ()


def permute_backward(xp, grad, saved, *, axes):
    ndim = len(axes)
    back = sorted(range(ndim), key=lambda place: axes[place] % ndim)
    return (grad.transpose(back),)


def permute_check(x, *, axes):
    if sorted(axis % x.ndim if x.ndim else axis for axis in axes) != list(range(x.ndim)):
        raise ValueError(f"permute: axes {axes} given, an order of the {x.ndim} axes is needed")


def permute_sample(draw):
    x = draw.normal(*draw.shape())
    order, rest = [], list(range(x.ndim))
    while rest:
        order.append(rest.pop(draw.choice(range(len(rest)))))
    return [x], {"axes": tuple(order)}


def broadcast_to_forward(xp, x, *, shape):
    """x repeated to `shape` by NumPy's broadcasting rules"""
    return xp.broadcast_to(x, shape), (x.shape,)


def broadcast_to_backward(xp, grad, saved, *, shape):
    return (unbroadcast(xp, grad, saved[0]),)


def broadcast_to_sample(draw):
    shape = draw.shape()
    x = draw.normal(*(draw.choice((length, 1)) for length in shape))
    return [x], {"shape": shape}


def concatenate_forward(xp, *arrays, axis=0):
    """The arrays joined along an existing axis"""
    return xp.concatenate(arrays, axis=axis), tuple(array.shape[axis] for array in arrays)


def concatenate_backward(xp, grad, saved, *, axis=0):
    pieces, start = [], 0
    index = [slice(None)] * grad.ndim
    for length in saved:
        index[axis] = slice(start, start + length)
        pieces.append(grad[tuple(index)])
        start += length
    return tuple(pieces)


def concatenate_sample(draw):
    shape = draw.shape(dims=draw.choice((1, 2, 3)))
    axis = draw.choice(range(-len(shape), len(shape)))
    arrays = []
    for _ in range(draw.choice((1, 2, 3))):
        lengths = list(shape)
        lengths[axis] = draw.size("N")
        arrays.append(draw.normal(*lengths))
    return arrays, {"axis": axis}


def getitem_forward(xp, x, *, index):
    """x[index], NumPy's basic and advanced indexing; repeated elements add their gradients"""
    out = x[index]
    return (out if is_array(out) else xp.asarray(out)), (x.shape, x.dtype)


def getitem_backward(xp, grad, saved, *, index):
    shape, dtype = saved
    dx = xp.zeros(shape, dtype)
    if _is_basic(index):
        dx[index] = grad
    else:
        scatter_add(xp, dx, index, grad)
    return (dx,)


def _is_basic(index):
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or isinstance(part, BASIC) for part in parts)


def getitem_sample(draw):
    n, m = draw.size("N", low=1), draw.size("C", low=1)
    rows = draw.integers(n, draw.size("T"))
    index = draw.choice(
        (0, (-1, ...), slice(None, None, 2), slice(1, n), rows, (slice(None), None, -1), (rows, 0))
    )
    return [draw.normal(n, m)], {"index": index}


reshape = Op(reshape_forward, reshape_backward, reshape_sample)
permute = Op(permute_forward, permute_backward, permute_sample, check=permute_check)
broadcast_to = Op(broadcast_to_forward, broadcast_to_backward, broadcast_to_sample)
concatenate = Op(concatenate_forward, concatenate_backward, concatenate_sample)
getitem = Op(getitem_forward, getitem_backward, getitem_sample)

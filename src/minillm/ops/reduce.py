"""Reductions over one axis, several, or all. `axis` is None, an int or a tuple of ints."""

from __future__ import annotations

import numpy

from minillm.op import Op


def normal_axes(ndim, axis):
    """The reduced axes as a tuple of non-negative ints."""
    if axis is None:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, tuple) else (axis,)
    return tuple(a + ndim if a < 0 else a for a in axes)


def expand(xp, array, ndim, axis, keepdims):
    """A reduced array with its reduced axes back as axes of length 1."""
    if keepdims or array.ndim == ndim:
        return array
    return xp.expand_dims(array, normal_axes(ndim, axis))


def reduce_sample(draw, low=0):
    x = draw.distinct(*draw.shape(low=low))
    axes = [None, *range(-x.ndim, x.ndim)]
    if x.ndim > 1:
        axes.append((0, x.ndim - 1))
    return [x], {"axis": draw.choice(axes), "keepdims": draw.boolean()}


def nonempty_sample(draw):
    return reduce_sample(draw, low=1)


def sum_forward(xp, x, *, axis=None, keepdims=False):
    """The sum over `axis`"""
    return xp.asarray(xp.sum(x, axis=axis, keepdims=keepdims)), (x.shape,)


def sum_backward(xp, grad, saved, *, axis=None, keepdims=False):
    (shape,) = saved
    return (xp.broadcast_to(expand(xp, grad, len(shape), axis, keepdims), shape),)


def mean_forward(xp, x, *, axis=None, keepdims=False):
    """The mean over `axis`"""
    return xp.asarray(xp.mean(x, axis=axis, keepdims=keepdims)), (x.shape,)


def mean_backward(xp, grad, saved, *, axis=None, keepdims=False):
    (shape,) = saved
    count = 1
    for a in normal_axes(len(shape), axis):
        count *= shape[a]
    return (xp.broadcast_to(expand(xp, grad, len(shape), axis, keepdims) / count, shape),)


def mean_check(x, *, axis=None, keepdims=False):
    if not x.size:
        raise ValueError(f"mean: shape {x.shape} has no elements, at least 1 is needed")


def max_forward(xp, x, *, axis=None, keepdims=False):
    """The largest element over `axis`; equal largest ones share the gradient equally"""
    out = xp.asarray(xp.max(x, axis=axis, keepdims=keepdims))
    return out, (x == expand(xp, out, x.ndim, axis, keepdims),)


def max_backward(xp, grad, saved, *, axis=None, keepdims=False):
    (largest,) = saved
    count = xp.sum(largest, axis=axis, keepdims=True).astype(grad.dtype)
    return (largest * (expand(xp, grad, largest.ndim, axis, keepdims) / count),)


def max_check(x, *, axis=None, keepdims=False):
    if not x.size:
        raise ValueError(f"max: shape {x.shape} has no elements, at least 1 is needed")


def norm_forward(xp, *arrays):
    """The Euclidean norm of all elements of all arrays together, summed in float64; shape ()"""
    squares = [xp.sum(xp.square(x, dtype=xp.float64)) for x in arrays]
    with numpy.errstate(over="ignore"):  # a norm beyond float32 is inf
        out = xp.asarray(xp.sqrt(xp.sum(xp.stack(squares)))).astype(arrays[0].dtype)
    return out, (*arrays, out)


def norm_backward(xp, grad, saved):
    *arrays, out = saved
    scale = grad / xp.where(out == 0, out.dtype.type(1), out)
    return [x * scale for x in arrays]


def norm_check(*arrays):
    if not arrays:
        raise ValueError("norm: no arrays given, at least 1 is needed")


def norm_kernel_forward(lib, xp, *arrays):
    if any(x.dtype != xp.float32 for x in arrays):
        return NotImplemented
    out = xp.empty((), xp.float32)
    lib.norm_forward([xp.ascontiguousarray(x) for x in arrays], out)
    return out, (*arrays, out)


def norm_sample(draw):
    return [draw.normal(*draw.shape()) for _ in range(draw.choice((1, 2, 3)))], {}


sum = Op(sum_forward, sum_backward, reduce_sample)
mean = Op(mean_forward, mean_backward, nonempty_sample, check=mean_check)
max = Op(max_forward, max_backward, nonempty_sample, check=max_check)
norm = Op(
    norm_forward,
    norm_backward,
    norm_sample,
    check=norm_check,
    kernel_forward=norm_kernel_forward,
)

"""Softmax and its logarithm over the last axis; a row of -inf gives 0 (-inf), gradient 0."""

from __future__ import annotations

from minillm.op import Op


def row_maximum(xp, x):
    """(..., 1), -inf for rows of no element; CuPy's max has no initial value."""
    if not x.shape[-1]:
        return xp.full((*x.shape[:-1], 1), -xp.inf, x.dtype)
    return xp.max(x, axis=-1, keepdims=True)


def peak(xp, x):
    """Each row's maximum; 0 for a row of -inf, which less 0 stays -inf instead of NaN."""
    top = row_maximum(xp, x)
    return xp.where(top == -xp.inf, x.dtype.type(0), top)


def softmax_forward(xp, x):
    """exp(x) / sum(exp(x)) over the last axis"""
    out = xp.exp(x - peak(xp, x))
    total = xp.sum(out, axis=-1, keepdims=True)
    out /= xp.where(total == 0, total.dtype.type(1), total)
    return out, (out,)


def softmax_backward(xp, grad, saved):
    (out,) = saved
    inner = xp.sum(grad * out, axis=-1, keepdims=True)
    return (out * (grad - inner),)


def log_softmax_forward(xp, x):
    """x - log(sum(exp(x))) over the last axis"""
    low = x - peak(xp, x)
    total = xp.sum(xp.exp(low), axis=-1, keepdims=True)
    out = low - xp.log(xp.where(total == 0, total.dtype.type(1), total))
    return out, (out,)


def log_softmax_backward(xp, grad, saved):
    (out,) = saved
    probability = xp.exp(out)
    dx = grad - probability * xp.sum(grad, axis=-1, keepdims=True)
    dead = row_maximum(xp, out) == -xp.inf
    return (xp.where(dead, dx.dtype.type(0), dx),)


def check(x):
    if not x.ndim:
        raise ValueError("softmax: a scalar has no last axis, at least 1 axis is needed")


def softmax_kernel_forward(lib, xp, x):
    return _forward(lib.softmax_forward, xp, x)


def softmax_kernel_backward(lib, xp, grad, saved):
    return _backward(lib.softmax_backward, xp, grad, saved)


def log_softmax_kernel_forward(lib, xp, x):
    return _forward(lib.log_softmax_forward, xp, x)


def log_softmax_kernel_backward(lib, xp, grad, saved):
    return _backward(lib.log_softmax_backward, xp, grad, saved)


def _forward(function, xp, x):
    if x.dtype != xp.float32 or not x.size:
        return NotImplemented
    out = xp.empty(x.shape, x.dtype)
    function(xp.ascontiguousarray(x).reshape(-1, x.shape[-1]), out.reshape(-1, x.shape[-1]))
    return out, (out,)


def _backward(function, xp, grad, saved):
    (out,) = saved
    if out.dtype != xp.float32 or not out.size:
        return NotImplemented
    dx = xp.empty(out.shape, out.dtype)
    width = out.shape[-1]
    function(
        xp.ascontiguousarray(grad).reshape(-1, width),
        xp.ascontiguousarray(out).reshape(-1, width),
        dx.reshape(-1, width),
    )
    return (dx,)


def sample(draw):
    x = draw.normal(*draw.shape(dims=draw.choice((1, 2, 3)))) * draw.choice((1.0, 10.0))
    return [x], {}


softmax = Op(
    softmax_forward,
    softmax_backward,
    sample,
    check=check,
    kernel_forward=softmax_kernel_forward,
    kernel_backward=softmax_kernel_backward,
)
log_softmax = Op(
    log_softmax_forward,
    log_softmax_backward,
    sample,
    check=check,
    kernel_forward=log_softmax_kernel_forward,
    kernel_backward=log_softmax_kernel_backward,
)

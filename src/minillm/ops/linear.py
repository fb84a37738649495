"""Matrix products, and the embedding that is one with a one-hot matrix."""

from __future__ import annotations

import numpy

from minillm.arrays import scatter_add
from minillm.op import Op, targets
from minillm.ops.arith import sum_rows, unbroadcast


def swap(array):
    return array.swapaxes(-1, -2)


def matmul_forward(xp, a, b):
    """a @ b; 1-D operands are a row on the left, a column on the right; leading axes broadcast"""
    return xp.matmul(a, b), (a, b)


def matmul_backward(xp, grad, saved):
    a, b = saved
    a, b, grad = as_matrices(a, b, grad)
    da = unbroadcast(xp, xp.matmul(grad, swap(b)), a.shape)
    db = unbroadcast(xp, xp.matmul(swap(a), grad), b.shape)
    return da.reshape(saved[0].shape), db.reshape(saved[1].shape)


def as_matrices(a, b, grad):
    """Put back the axes that 1-D operands leave out."""
    if b.ndim == 1:
        grad, b = grad[..., None], b[:, None]
    if a.ndim == 1:
        grad, a = grad[..., None, :], a[None, :]
    return a, b, grad


def matmul_check(a, b):
    if not a.ndim or not b.ndim:
        raise ValueError(f"matmul: shapes {a.shape} and {b.shape}, at least 1 axis each is needed")
    inner = b.shape[-2] if b.ndim > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise ValueError(
            f"matmul: shapes {a.shape} and {b.shape}, inner lengths {a.shape[-1]} and {inner} "
            "must be equal"
        )
    for n, m in zip(a.shape[-3::-1], b.shape[-3::-1]):
        if n != m and 1 not in (n, m):
            raise ValueError(f"matmul: leading axes of {a.shape} and {b.shape} do not broadcast")


def matmul_kernel_forward(lib, xp, a, b):
    if a.ndim < 2 or b.ndim < 2 or a.dtype != xp.float32 or b.dtype != xp.float32:
        return NotImplemented
    return product(lib, xp, a, b), (a, b)


def product(lib, xp, a, b):
    batch = a.shape[:-2]
    if batch != b.shape[:-2]:
        batch = numpy.broadcast_shapes(batch, b.shape[:-2])
        a = xp.broadcast_to(a, batch + a.shape[-2:])
        b = xp.broadcast_to(b, batch + b.shape[-2:])
    out = xp.empty((*batch, a.shape[-2], b.shape[-1]), a.dtype)
    lib.matmul_forward(a, b, out)
    return out


def matmul_kernel_backward(lib, xp, grad, saved):
    a, b = saved
    if a.ndim < 2 or b.ndim < 2 or a.dtype != xp.float32 or b.dtype != xp.float32:
        return NotImplemented
    return (
        unbroadcast(xp, product(lib, xp, grad, swap(b)), a.shape),
        unbroadcast(xp, product(lib, xp, swap(a), grad), b.shape),
    )


def matmul_sample(draw):
    m, k, n = draw.size("T"), draw.size("C"), draw.size("D")
    batch = draw.choice(((), (), (draw.size("B"),), (2, 3)))
    a = draw.normal(*batch, m, k) if draw.choice((3, 0)) else draw.normal(k)
    b_batch = tuple(draw.choice((length, 1)) for length in batch)
    b = draw.normal(*b_batch, k, n) if draw.choice((3, 0)) else draw.normal(k)
    return [a, b], {}


def linear_forward(xp, x, weight, bias=None, residual=None):
    """x @ weight.T + bias + residual

    x (..., in), weight (out, in), bias (out), residual (..., out) as the result
    """
    out = xp.matmul(x, weight.T)
    if bias is not None:
        out += bias
    if residual is not None:
        out += residual
    return out, (x, weight, bias is not None, residual is not None)


def linear_backward(xp, grad, saved):
    x, weight, has_bias, has_residual = saved
    rows = grad.reshape(-1, grad.shape[-1])
    dx = xp.matmul(grad, weight)
    dweight = xp.matmul(rows.T, x.reshape(-1, x.shape[-1]))
    dbias = sum_rows(xp, rows) if has_bias else None
    return dx, dweight, dbias, grad if has_residual else None


def linear_check(x, weight, bias=None, residual=None):
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: x {x.shape} and weight {weight.shape}, (..., in) and (out, in) are needed"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias {bias.shape}, {weight.shape[:1]} is needed")
    check_residual("linear", residual, x, weight)


def check_residual(name, residual, x, weight):
    shape = (*x.shape[:-1], weight.shape[0])
    if residual is not None and residual.shape != shape:
        raise ValueError(f"{name}: residual {residual.shape}, {shape} as the result is needed")


def linear_kernel_forward(lib, xp, x, weight, bias=None, residual=None):
    if x.dtype != xp.float32 or weight.dtype != xp.float32:
        return NotImplemented
    out = xp.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    lib.linear_forward(
        rows_of(xp, x),
        xp.ascontiguousarray(weight),
        None if bias is None else xp.ascontiguousarray(bias),
        None if residual is None else rows_of(xp, residual),
        rows_of(xp, out),
    )
    return out, (x, weight, bias is not None, residual is not None)


def rows_of(xp, array):
    """All axes but the last as one, contiguous."""
    return xp.ascontiguousarray(array).reshape(-1, array.shape[-1])


def linear_kernel_backward(lib, xp, grad, saved, totals):
    x, weight, has_bias, has_residual = saved
    if x.dtype != xp.float32 or weight.dtype != xp.float32:
        return NotImplemented
    bias_shape = weight.shape[:1] if has_bias else None
    (dx, dweight, dbias), add = targets(xp, totals, x.shape, weight.shape, bias_shape)
    lib.linear_backward(
        rows_of(xp, grad),
        rows_of(xp, x),
        xp.ascontiguousarray(weight),
        rows_of(xp, dx),
        dweight,
        dbias,
        add,
    )
    return dx, dweight, dbias, grad if has_residual else None


def linear_sample(draw):
    rows, inner, outer = draw.size("T"), draw.size("C", low=1), draw.size("N", low=1)
    batch = draw.choice(((), (draw.size("B"),)))
    bias = draw.normal(outer) if draw.boolean() else None
    residual = draw.normal(*batch, rows, outer) if draw.choice((False, False, True)) else None
    return [draw.normal(*batch, rows, inner), draw.normal(outer, inner), bias, residual], {}


def embedding_forward(xp, weight, ids):
    """weight[ids]; weight (V, C), ids integers of any shape, 0 <= id < V (IndexError)"""
    return xp.take(weight, ids, axis=0), (weight.shape, ids)


def embedding_backward(xp, grad, saved):
    shape, ids = saved
    dweight = xp.zeros(shape, grad.dtype)
    scatter_add(xp, dweight, ids.reshape(-1), grad.reshape(ids.size, shape[1]))
    return dweight, None


def embedding_kernel_backward(lib, xp, grad, saved, totals):
    shape, ids = saved
    if grad.dtype != xp.float32:
        return NotImplemented
    (dweight,), (add,) = targets(xp, totals, shape)
    lib.embedding_backward(
        xp.ascontiguousarray(grad).reshape(ids.size, shape[1]),
        xp.ascontiguousarray(ids, dtype=xp.int64).reshape(-1),
        dweight,
        add,
    )
    return dweight, None


def embedding_check(weight, ids):
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight {weight.shape}, (V, C) is needed")
    check_ids("embedding", ids, weight.shape[0])


def check_ids(name, ids, size):
    """IndexError naming the first id outside 0 <= id < size, TypeError unless integers."""
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name}: ids of dtype {ids.dtype}, integers are needed")
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        flat = ids.reshape(-1)
        wrong = int(flat[(flat < 0) | (flat >= size)][0])
        raise IndexError(f"{name}: id {wrong}, 0 <= id < {size} is needed")


def embedding_sample(draw):
    size = draw.size("V", low=1)
    ids = draw.integers(size, *draw.shape(dims=draw.choice((0, 1, 2))))
    return [draw.normal(size, draw.size("C")), ids], {}


matmul = Op(
    matmul_forward,
    matmul_backward,
    matmul_sample,
    check=matmul_check,
    kernel_forward=matmul_kernel_forward,
    kernel_backward=matmul_kernel_backward,
)
linear = Op(
    linear_forward,
    linear_backward,
    linear_sample,
    check=linear_check,
    kernel_forward=linear_kernel_forward,
    kernel_backward=linear_kernel_backward,
    accumulates=(0, 1, 2),
)
embedding = Op(
    embedding_forward,
    embedding_backward,
    embedding_sample,
    check=embedding_check,
    kernel_backward=embedding_kernel_backward,
    constant=(1,),
    accumulates=(0,),
)

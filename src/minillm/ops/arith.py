"""Elementwise arithmetic with broadcasting. Python numbers as operands take no gradient."""

from __future__ import annotations

from minillm.arrays import is_array
from minillm.op import Op

BLOCK = 32  # rows added one after the other


def unbroadcast(xp, grad, like):
    """Sum `grad` back to the shape `like` was broadcast from; None for a Python number."""
    if like is None:
        return None
    if grad.shape == like:
        return grad
    extra = grad.ndim - len(like)
    if grad.shape[extra:] == like and grad.size:
        return sum_rows(xp, grad.reshape(-1, *like))
    axes = tuple(range(extra)) + tuple(
        extra + axis
        for axis, length in enumerate(like)
        if length == 1 and grad.shape[extra + axis] != 1
    )
    return xp.sum(grad, axis=axes, keepdims=True).reshape(like) if axes else grad.reshape(like)


def sum_rows(xp, rows):
    """The sum over the first axis, in blocks: less rounding than one row after the other."""
    while len(rows) > 2 * BLOCK:
        whole = len(rows) // BLOCK * BLOCK
        blocks = xp.sum(rows[:whole].reshape(-1, BLOCK, *rows.shape[1:]), axis=1, dtype=rows.dtype)
        rows = xp.concatenate((blocks, rows[whole:]))
    return xp.sum(rows, axis=0, dtype=rows.dtype)


def paired(a, b):
    """An integer operand in the other's floating dtype: NumPy would widen float32 to float64."""
    if is_array(a) and is_array(b) and a.dtype is not b.dtype:
        if a.dtype.kind == "f" and b.dtype.kind in "iu":
            return a, b.astype(a.dtype)
        if b.dtype.kind == "f" and a.dtype.kind in "iu":
            return a.astype(b.dtype), b
    return a, b


def shape_of(operand):
    return getattr(operand, "shape", None)


def pair_sample(draw):
    """Two arrays whose shapes broadcast, in all the ways shapes can."""
    shape = draw.shape()
    other = tuple(draw.choice((length, 1)) for length in shape)
    other = other[draw.choice(range(len(other) + 1)) :]
    a, b = draw.normal(*shape), draw.normal(*other)
    return ([a, b] if draw.boolean() else [b, a]), {}


def one_sample(draw):
    return [draw.normal(*draw.shape())], {}


def positive_sample(draw):
    return [draw.positive(*draw.shape())], {}


def add_forward(xp, a, b):
    """a + b"""
    return xp.add(*paired(a, b)), (shape_of(a), shape_of(b))


def add_backward(xp, grad, saved):
    a, b = saved
    return unbroadcast(xp, grad, a), unbroadcast(xp, grad, b)


def subtract_forward(xp, a, b):
    """a - b"""
    return xp.subtract(*paired(a, b)), (shape_of(a), shape_of(b))


def subtract_backward(xp, grad, saved):
    a, b = saved
    return unbroadcast(xp, grad, a), None if b is None else unbroadcast(xp, -grad, b)


def multiply_forward(xp, a, b):
    """a * b"""
    a, b = paired(a, b)
    return xp.multiply(a, b), (a, b)


def multiply_backward(xp, grad, saved):
    a, b = saved
    return (
        unbroadcast(xp, grad * b, a.shape) if is_array(a) else None,
        unbroadcast(xp, grad * a, b.shape) if is_array(b) else None,
    )


def divide_forward(xp, a, b):
    """a / b"""
    a, b = paired(a, b)
    return xp.divide(a, b), (a, b)


def divide_backward(xp, grad, saved):
    a, b = saved
    quotient = grad / b
    return (
        unbroadcast(xp, quotient, a.shape) if is_array(a) else None,
        unbroadcast(xp, -quotient * (a / b), b.shape) if is_array(b) else None,
    )


def divide_sample(draw):
    (a, b), params = pair_sample(draw)
    return [a, draw.positive(*b.shape)], params


def power_forward(xp, x, *, exponent):
    """x ** exponent, the exponent a Python number"""
    return xp.power(x, exponent), (x,)


def power_backward(xp, grad, saved, *, exponent):
    (x,) = saved
    if exponent == 0:
        return (xp.zeros_like(x),)
    return (grad * exponent * xp.power(x, exponent - 1),)


def power_check(x, *, exponent):
    if not isinstance(exponent, int | float):
        raise TypeError(f"power: the exponent is a {type(exponent).__name__}, a number is needed")


def power_sample(draw):
    exponent = draw.choice((0, 1, 2, 3, -1, 0.5, 1.7))
    return [draw.positive(*draw.shape())], {"exponent": exponent}


def negative_forward(xp, x):
    """-x"""
    return xp.negative(x), ()


def negative_backward(xp, grad, saved):
    return (-grad,)


def exp_forward(xp, x):
    """e ** x"""
    out = xp.exp(x)
    return out, (out,)


def exp_backward(xp, grad, saved):
    (out,) = saved
    return (grad * out,)


def log_forward(xp, x):
    """The natural logarithm of x"""
    return xp.log(x), (x,)


def log_backward(xp, grad, saved):
    (x,) = saved
    return (grad / x,)


def sqrt_forward(xp, x):
    """The square root of x"""
    out = xp.sqrt(x)
    return out, (out,)


def sqrt_backward(xp, grad, saved):
    (out,) = saved
    return (grad * 0.5 / out,)


def clip_forward(xp, x, *, low=None, high=None):
    """x limited to [low, high]; no gradient where the limit acts"""
    return xp.clip(x, low, high), (x,)


def clip_backward(xp, grad, saved, *, low=None, high=None):
    (x,) = saved
    inside = xp.ones(x.shape, bool)
    if low is not None:
        inside &= x >= low
    if high is not None:
        inside &= x <= high
    return (xp.where(inside, grad, grad.dtype.type(0)),)


def clip_sample(draw):
    limits = draw.choice(((-0.5, 0.5), (None, 0.3), (-0.3, None)))
    return [draw.distinct(*draw.shape())], {"low": limits[0], "high": limits[1]}


def where_forward(xp, condition, a, b):
    """a where the condition holds, else b"""
    return xp.where(condition, *paired(a, b)), (condition, shape_of(a), shape_of(b))


def where_backward(xp, grad, saved):
    condition, a, b = saved
    zero = grad.dtype.type(0)
    return (
        None,
        None if a is None else unbroadcast(xp, xp.where(condition, grad, zero), a),
        None if b is None else unbroadcast(xp, xp.where(condition, zero, grad), b),
    )


def where_sample(draw):
    (a, b), _ = pair_sample(draw)
    return [draw.mask(*a.shape), a, b], {}


def masked_fill_forward(xp, x, mask, *, value):
    """x with `value` where the boolean mask holds; the mask broadcasts to x"""
    return xp.where(mask, x.dtype.type(value), x), (mask,)


def masked_fill_backward(xp, grad, saved, *, value):
    (mask,) = saved
    return xp.where(mask, grad.dtype.type(0), grad), None


def masked_fill_check(x, mask, *, value):
    if mask.dtype != bool:
        raise TypeError(f"masked_fill: mask of dtype {mask.dtype}, bool is needed")
    fits = mask.ndim <= x.ndim and all(m in (1, n) for m, n in zip(mask.shape[::-1], x.shape[::-1]))
    if not fits:
        raise ValueError(f"masked_fill: mask {mask.shape} does not broadcast to {x.shape}")


def masked_fill_sample(draw):
    x = draw.normal(*draw.shape())
    mask = draw.mask(*(draw.choice((length, 1)) for length in x.shape))
    return [x, mask], {"value": draw.choice((0.0, -2.5))}


add = Op(add_forward, add_backward, pair_sample)
subtract = Op(subtract_forward, subtract_backward, pair_sample)
multiply = Op(multiply_forward, multiply_backward, pair_sample)
divide = Op(divide_forward, divide_backward, divide_sample)
power = Op(power_forward, power_backward, power_sample, check=power_check)
negative = Op(negative_forward, negative_backward, one_sample)
exp = Op(exp_forward, exp_backward, one_sample)
log = Op(log_forward, log_backward, positive_sample)
sqrt = Op(sqrt_forward, sqrt_backward, positive_sample)
clip = Op(clip_forward, clip_backward, clip_sample)
where = Op(where_forward, where_backward, where_sample)
masked_fill = Op(
    masked_fill_forward, masked_fill_backward, masked_fill_sample, check=masked_fill_check
)

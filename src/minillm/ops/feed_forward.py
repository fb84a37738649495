"""The feed-forward part of a Transformer block as one operation."""

from __future__ import annotations

from minillm.op import Op, targets
from minillm.ops.activation import gelu_backward, gelu_forward, silu_backward, silu_forward
from minillm.ops.linear import check_residual, linear_backward, linear_forward, rows_of

ACTIVATIONS = {  # forward, backward, parameters
    "gelu_tanh": (gelu_forward, gelu_backward, {"approximate": "tanh"}),
    "gelu": (gelu_forward, gelu_backward, {"approximate": "none"}),
    "silu": (silu_forward, silu_backward, {}),
}


def feed_forward_forward(
    xp, x, weight1, bias1, weight2, bias2, residual=None, *, activation="gelu_tanh"
):
    """activation(x @ weight1.T + bias1) @ weight2.T + bias2 + residual

    x (..., in), weight1 (hidden, in), bias1 (hidden) or None, weight2 (out, hidden), bias2 (out)
    or None, residual (..., out); the activation is "gelu_tanh", "gelu" or "silu". Its result is not
    kept: the backward pass finds it again.
    """
    activate, _, params = ACTIVATIONS[activation]
    hidden, _ = linear_forward(xp, x, weight1, bias1)
    activated, _ = activate(xp, hidden, **params)
    out, _ = linear_forward(xp, activated, weight2, bias2, residual)
    given = bias1 is not None, bias2 is not None, residual is not None
    return out, (x, weight1, weight2, hidden, given)


def feed_forward_backward(xp, grad, saved, *, activation="gelu_tanh"):
    x, weight1, weight2, hidden, (has_bias1, has_bias2, has_residual) = saved
    activate, activate_backward, params = ACTIVATIONS[activation]
    activated, _ = activate(xp, hidden, **params)
    dactivated, dweight2, dbias2, dresidual = linear_backward(
        xp, grad, (activated, weight2, has_bias2, has_residual)
    )
    (dhidden,) = activate_backward(xp, dactivated, (hidden,), **params)
    dx, dweight1, dbias1, _ = linear_backward(xp, dhidden, (x, weight1, has_bias1, False))
    return dx, dweight1, dbias1, dweight2, dbias2, dresidual


def feed_forward_check(x, weight1, bias1, weight2, bias2, residual=None, *, activation="gelu_tanh"):
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"feed_forward: activation={activation!r}, one of {', '.join(ACTIVATIONS)} is needed"
        )
    if (
        not x.ndim
        or not weight1.ndim == weight2.ndim == 2
        or x.shape[-1] != weight1.shape[1]
        or weight1.shape[0] != weight2.shape[1]
    ):
        raise ValueError(
            f"feed_forward: x {x.shape}, weight1 {weight1.shape} and weight2 {weight2.shape}, "
            "(..., in), (hidden, in) and (out, hidden) are needed"
        )
    for name, bias, weight in (("bias1", bias1, weight1), ("bias2", bias2, weight2)):
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"feed_forward: {name} {bias.shape}, {weight.shape[:1]} is needed")
    check_residual("feed_forward", residual, x, weight2)


def feed_forward_kernel_forward(
    lib, xp, x, weight1, bias1, weight2, bias2, residual=None, *, activation="gelu_tanh"
):
    if any(array.dtype != xp.float32 for array in (x, weight1, weight2)):
        return NotImplemented
    hidden = xp.empty((*x.shape[:-1], weight1.shape[0]), x.dtype)
    out = xp.empty((*x.shape[:-1], weight2.shape[0]), x.dtype)
    lib.feed_forward_forward(
        rows_of(xp, x),
        xp.ascontiguousarray(weight1),
        None if bias1 is None else xp.ascontiguousarray(bias1),
        xp.ascontiguousarray(weight2),
        None if bias2 is None else xp.ascontiguousarray(bias2),
        None if residual is None else rows_of(xp, residual),
        activation,
        rows_of(xp, hidden),
        rows_of(xp, out),
    )
    given = bias1 is not None, bias2 is not None, residual is not None
    return out, (x, weight1, weight2, hidden, given)


def feed_forward_kernel_backward(lib, xp, grad, saved, totals, *, activation="gelu_tanh"):
    x, weight1, weight2, hidden, (has_bias1, has_bias2, has_residual) = saved
    if any(array.dtype != xp.float32 for array in (x, weight1, weight2)):
        return NotImplemented
    (dx, dweight1, dbias1, dweight2, dbias2), add = targets(
        xp,
        totals,
        x.shape,
        weight1.shape,
        weight1.shape[:1] if has_bias1 else None,
        weight2.shape,
        weight2.shape[:1] if has_bias2 else None,
    )
    lib.feed_forward_backward(
        rows_of(xp, grad),
        rows_of(xp, x),
        xp.ascontiguousarray(weight1),
        xp.ascontiguousarray(weight2),
        rows_of(xp, hidden),
        activation,
        rows_of(xp, dx),
        dweight1,
        dbias1,
        dweight2,
        dbias2,
        add,
    )
    return dx, dweight1, dbias1, dweight2, dbias2, grad if has_residual else None


def feed_forward_sample(draw):
    rows, inner, outer = draw.size("T"), draw.size("C", low=1), draw.size("C", low=1)
    hidden = draw.size("N", low=1)
    batch = draw.choice(((), (draw.size("B"),)))
    return [
        draw.normal(*batch, rows, inner),
        draw.normal(hidden, inner),
        draw.normal(hidden) if draw.boolean() else None,
        draw.normal(outer, hidden),
        draw.normal(outer) if draw.boolean() else None,
        draw.normal(*batch, rows, outer) if draw.boolean() else None,
    ], {"activation": draw.choice(tuple(ACTIVATIONS))}


feed_forward = Op(
    feed_forward_forward,
    feed_forward_backward,
    feed_forward_sample,
    check=feed_forward_check,
    kernel_forward=feed_forward_kernel_forward,
    kernel_backward=feed_forward_kernel_backward,
    accumulates=(0, 1, 2, 3, 4),
)

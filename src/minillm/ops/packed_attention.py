"""Attention on the joint projection as a linear layer leaves it: no copy per head, in or out."""

from __future__ import annotations

import math

from minillm.op import Op
from minillm.ops.attention import (
    scaled_dot_product_attention_backward,
    scaled_dot_product_attention_forward,
)


def packed_attention_forward(xp, qkv, *, heads, kv_heads=None, causal=True, scale=None):
    """scaled_dot_product_attention of the queries, keys and values that lie side by side in qkv

    qkv (B, T, (H + 2 Hkv) D): H = heads queries, then Hkv = kv_heads keys, then as many values of
    D features each; Hkv is H if None. The result (B, T, H D) has the heads side by side.
    """
    q, k, v = unpacked(qkv, heads, kv_heads)
    _, saved = scaled_dot_product_attention_forward(xp, q, k, v, causal=causal, scale=scale)
    out, lse = packed(xp, saved[4]), saved[5]
    return out, (qkv, out, lse)


def packed_attention_backward(xp, grad, saved, *, heads, kv_heads=None, causal=True, scale=None):
    qkv, out, lse = saved
    parts = scaled_dot_product_attention_backward(
        xp,
        split_heads(grad, heads),
        (*unpacked(qkv, heads, kv_heads), None, split_heads(out, heads), lse),
        causal=causal,
        scale=scale,
    )
    return (packed(xp, *parts[:3]),)


def split_heads(array, heads):
    """(B, T, H D) seen as (B, H, T, D)."""
    batch, length, width = array.shape
    return array.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def unpacked(qkv, heads, kv_heads):
    """Views of the queries (B, H, T, D), keys and values (B, Hkv, T, D)."""
    kv_heads = kv_heads or heads
    joint = split_heads(qkv, heads + 2 * kv_heads)
    return joint[:, :heads], joint[:, heads : heads + kv_heads], joint[:, heads + kv_heads :]


def packed(xp, *parts):
    """The heads (B, ., T, D) of all parts side by side: (B, T, . D)."""
    rows = [part.transpose(0, 2, 1, 3) for part in parts]
    rows = [part.reshape(*part.shape[:2], part.shape[2] * part.shape[3]) for part in rows]
    return xp.concatenate(rows, axis=2)


def packed_attention_check(qkv, *, heads, kv_heads=None, causal=True, scale=None):
    name = "packed_attention"
    if heads < 1 or (kv_heads is not None and (kv_heads < 1 or heads % kv_heads)):
        raise ValueError(
            f"{name}: heads {heads} and kv_heads {kv_heads}, a positive multiple of kv_heads "
            "is needed"
        )
    all_heads = heads + 2 * (kv_heads or heads)
    if qkv.ndim != 3 or not qkv.shape[2] or qkv.shape[2] % all_heads:
        raise ValueError(
            f"{name}: qkv {qkv.shape}, (B, T, (H + 2 Hkv) D) with H + 2 Hkv = {all_heads} heads "
            "of at least 1 feature is needed"
        )


def packed_attention_kernel_forward(lib, xp, qkv, *, heads, kv_heads=None, causal=True, scale=None):
    if qkv.dtype != xp.float32:
        return NotImplemented
    batch, length, width = qkv.shape
    size = width // (heads + 2 * (kv_heads or heads))
    out = xp.empty((batch, length, heads * size), qkv.dtype)
    lse = xp.empty((batch, heads, length), qkv.dtype)
    scale = 1 / math.sqrt(size) if scale is None else scale
    lib.packed_attention_forward(xp.ascontiguousarray(qkv), causal, scale, out, lse)
    return (out, (qkv, out, lse)) if last_is_finite(lib, out) else NotImplemented


def packed_attention_kernel_backward(
    lib, xp, grad, saved, *, heads, kv_heads=None, causal=True, scale=None
):
    qkv, out, lse = saved
    if qkv.dtype != xp.float32:
        return NotImplemented
    dqkv = xp.empty(qkv.shape, qkv.dtype)
    lib.packed_attention_backward(
        xp.ascontiguousarray(grad),
        xp.ascontiguousarray(qkv),
        xp.ascontiguousarray(out),
        xp.ascontiguousarray(lse),
        causal,
        1 / math.sqrt(out.shape[2] // heads) if scale is None else scale,
        dqkv,
    )
    return (dqkv,) if last_is_finite(lib, dqkv[:, :, : out.shape[2]]) else NotImplemented


def last_is_finite(lib, rows):
    """Whether a kernel may serve, from its result or gradient for the queries (B, T, H D).

    It multiplies what causality hides by 0, which does not hide infinity and NaN. The last query
    sees all keys and values, so they show there: in the result if in a value, in the gradient if
    in either. A library that cannot tell without waiting for its device hides them by itself.
    """
    return not hasattr(lib.runtime, "all_finite") or lib.runtime.all_finite(rows[:, -1:])


def packed_attention_sample(draw):
    heads = min(draw.size("H", low=1), 12)
    kv_heads = heads // draw.choice((1, 1, heads, 3 if heads % 3 == 0 else heads))
    width = (heads + 2 * kv_heads) * draw.size("D", low=1)
    return [draw.normal(draw.size("B"), draw.size("T"), width)], {
        "heads": heads,
        "kv_heads": None if kv_heads == heads else kv_heads,
        "causal": draw.choice((True, True, False)),
        "scale": draw.choice((None, None, 0.5)),
    }


packed_attention = Op(
    packed_attention_forward,
    packed_attention_backward,
    packed_attention_sample,
    check=packed_attention_check,
    kernel_forward=packed_attention_kernel_forward,
    kernel_backward=packed_attention_kernel_backward,
)

"""Attention and the rotary embedding that goes into it."""

from __future__ import annotations

import math

from minillm.arrays import is_array, known
from minillm.op import Op
from minillm.ops.arith import unbroadcast
from minillm.ops.linear import swap
from minillm.ops.softmax import row_maximum


def scaled_dot_product_attention_forward(
    xp, q, k, v, mask=None, *, causal=False, offset=0, scale=None, window=None
):
    """softmax(scale * q k^T + mask) v (Vaswani et al. 2017, section 3.2.1)

    q (B, H, Tq, D), k (B, Hkv, Tk, D), v (B, Hkv, Tk, Dv); H is a multiple of Hkv and query head h
    attends with key head h // (H / Hkv). The mask, of 4 axes each full or 1, is boolean (True
    attends) or added to the scores. `causal`: query i sees keys j <= offset + i, and with a
    `window` the last so many of them. `scale` is 1/sqrt(D) if None. A query that may see nothing
    gives 0; masked keys and values never leak.
    """
    scores, visible = masked_scores(xp, q, k, mask, causal, offset, scale, window)
    top = row_maximum(xp, scores)
    weights = xp.exp(scores - xp.where(top == -xp.inf, q.dtype.type(0), top))
    if visible is not None:
        weights = xp.where(visible, weights, q.dtype.type(0))
    total = xp.sum(weights, axis=-1, keepdims=True)
    seen = xp.where(total == 0, q.dtype.type(1), total)
    weights /= seen
    out = ungrouped(weighted_sum(xp, weights, grouped_keys(v)), q.shape[1])
    lse = xp.where(total == 0, q.dtype.type(-xp.inf), xp.log(seen) + top)
    lse = lse.reshape(q.shape[:-1])
    return xp.ascontiguousarray(out), (q, k, v, mask, out, lse)


def scaled_dot_product_attention_backward(
    xp, grad, saved, *, causal=False, offset=0, scale=None, window=None
):
    q, k, v, mask, out, lse = saved
    scores, visible = masked_scores(xp, q, k, mask, causal, offset, scale, window)
    lse = grouped(xp.where(lse == -xp.inf, lse.dtype.type(0), lse)[..., None], k.shape[1])
    weights = xp.exp(scores - lse)
    if visible is not None:
        weights = xp.where(visible, weights, q.dtype.type(0))
    delta = grouped(xp.sum(grad * out, axis=-1, keepdims=True), k.shape[1])
    dout = grouped(grad, k.shape[1])
    dweights = xp.matmul(dout, swap(grouped_keys(v)))
    dscores = xp.where(weights == 0, weights, weights * (dweights - delta))
    dmask = None
    if mask is not None and mask.dtype != bool:
        full = dscores.reshape(*q.shape[:-1], k.shape[2])
        dmask = unbroadcast(xp, full, mask.shape)
    dscores = dscores * scale_of(q, scale)
    dq = ungrouped(weighted_sum(xp, dscores, grouped_keys(k)), q.shape[1])
    dk = xp.sum(weighted_sum(xp, swap(dscores), grouped(q, k.shape[1])), axis=2)
    dv = xp.sum(weighted_sum(xp, swap(weights), dout), axis=2)
    return dq, dk, dv, dmask


def scale_of(q, scale):
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def grouped(array, kv_heads):
    """(B, H, ...) as (B, Hkv, H/Hkv, ...)."""
    batch, heads = array.shape[:2]
    return array.reshape(batch, kv_heads, heads // kv_heads, *array.shape[2:])


def ungrouped(array, heads):
    return array.reshape(array.shape[0], heads, *array.shape[3:])


def grouped_keys(array):
    return array[:, :, None]


def masked_scores(xp, q, k, mask, causal, offset, scale, window):
    """Scores (B, Hkv, G, Tq, Tk), -inf where masked, and what is visible (None: everything)."""
    scores = xp.matmul(grouped(q, k.shape[1]), swap(grouped_keys(k)))
    scores *= scale_of(q, scale)
    visible = None
    if causal:
        visible = xp.arange(k.shape[2]) <= xp.arange(q.shape[2])[:, None] + offset
    if window is not None:
        visible = visible & within(xp, window, q.shape[2], k.shape[2], offset)[0, 0]
    if mask is not None:
        mask = xp.broadcast_to(mask, (mask.shape[0], q.shape[1], *mask.shape[2:]))
        mask = grouped(mask, k.shape[1])
        if mask.dtype == bool:
            visible = mask if visible is None else visible & mask
        else:
            scores += mask
            open_ = mask != -xp.inf
            visible = open_ if visible is None else visible & open_
    if visible is not None:
        scores = xp.where(visible, scores, q.dtype.type(-xp.inf))
    return scores, visible


def within(xp, window, queries, keys, offset):
    """(1, 1, Tq, Tk), True where key j is in the window that ends at query offset + i, or after."""
    return (xp.arange(keys) > xp.arange(queries)[:, None] + (offset - window))[None, None]


def weighted_sum(xp, weights, values):
    """weights @ values, where a weight of 0 hides even a NaN."""
    finite = xp.isfinite(values)
    if known(finite.all()):
        return xp.matmul(weights, values)
    out = xp.matmul(weights, xp.where(finite, values, values.dtype.type(0)))
    above, below = weights > 0, weights < 0
    plus, minus = values == xp.inf, values == -xp.inf

    def meet(some, others):
        return xp.matmul(some.astype(out.dtype), others.astype(out.dtype)) > 0

    infinite = out.dtype.type(xp.inf)
    out = xp.where(meet(above, plus) | meet(below, minus), out + infinite, out)
    out = xp.where(meet(above, minus) | meet(below, plus), out - infinite, out)
    return xp.where(meet(above | below, values != values), out.dtype.type(xp.nan), out)


def attention_check(q, k, v, mask=None, *, causal=False, offset=0, scale=None, window=None):
    name = "scaled_dot_product_attention"
    if not (q.ndim == k.ndim == v.ndim == 4):
        raise ValueError(f"{name}: q {q.shape}, k {k.shape}, v {v.shape}, 4 axes each are needed")
    if k.shape[:3] != v.shape[:3] or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"{name}: q {q.shape}, k {k.shape}, v {v.shape}; "
            "(B, H, Tq, D), (B, Hkv, Tk, D), (B, Hkv, Tk, Dv) are needed"
        )
    if not q.shape[3]:
        raise ValueError(f"{name}: q {q.shape}, a head of at least 1 feature is needed")
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ValueError(
            f"{name}: {q.shape[1]} query heads are no multiple of {k.shape[1]} key heads"
        )
    if offset < 0:
        raise ValueError(f"{name}: offset {offset}, 0 or more is needed")
    full = (*q.shape[:3], k.shape[2])
    if mask is not None and (
        mask.ndim != 4 or any(m not in (1, n) for m, n in zip(mask.shape, full))
    ):
        raise ValueError(f"{name}: mask {mask.shape}, each axis of {full} or 1 is needed")
    if window is not None and (window < 1 or not causal):
        raise ValueError(
            f"{name}: window {window}, causal {causal}; 1 or more of a causal attention is needed"
        )
    if mask is not None and mask.dtype != bool and mask.dtype.kind != "f":
        raise TypeError(f"{name}: mask of dtype {mask.dtype}, bool or float is needed")


def scaled_dot_product_attention_kernel_forward(
    lib, xp, q, k, v, mask=None, *, causal=False, offset=0, scale=None, window=None
):
    hides, windows = hiding(lib, xp, q, k, mask, offset, window)
    if hides is NotImplemented or not served(lib, xp, q, k, v, hides):
        return NotImplemented
    q, k, v = (rows_contiguous(xp, array) for array in (q, k, v))
    out = xp.empty((*q.shape[:3], v.shape[3]), q.dtype)
    lse = xp.empty(q.shape[:3], q.dtype)
    lib.scaled_dot_product_attention_forward(
        q, k, v, hides, causal, offset, scale_of(q, scale), out, lse, *windows
    )
    return out, (q, k, v, mask, out, lse)


def scaled_dot_product_attention_kernel_backward(
    lib, xp, grad, saved, *, causal=False, offset=0, scale=None, window=None
):
    q, k, v, mask, out, lse = saved
    learnt = mask is not None and mask.dtype != bool
    if learnt and not hasattr(lib.runtime, "mask_gradients"):
        return NotImplemented
    hides, windows = hiding(lib, xp, q, k, mask, offset, window)
    if hides is NotImplemented or not served(lib, xp, q, k, v, hides, grad):
        return NotImplemented
    q, k, v = (rows_contiguous(xp, array) for array in (q, k, v))
    dq, dk, dv = (xp.empty(array.shape, q.dtype) for array in (q, k, v))
    dmask = xp.empty((*mask.shape[:2], q.shape[2], k.shape[2]), q.dtype) if learnt else None
    lib.scaled_dot_product_attention_backward(
        xp.ascontiguousarray(grad),
        q,
        k,
        v,
        hides,
        xp.ascontiguousarray(out),
        xp.ascontiguousarray(lse),
        causal,
        offset,
        scale_of(q, scale),
        dq,
        dk,
        dv,
        *windows,
        *((dmask,) if learnt else ()),
    )
    return dq, dk, dv, unbroadcast(xp, dmask, mask.shape) if learnt else None


def hiding(lib, xp, q, k, mask, offset, window):
    """The mask and the last arguments that a library takes for a window: 0 for none.

    A library without windows gets a mask for it; NotImplemented where there is one already.
    """
    if hasattr(lib.runtime, "windows"):
        return mask, (window or 0,)
    if window is not None:
        alone = mask is None
        mask = within(xp, window, q.shape[2], k.shape[2], offset) if alone else NotImplemented
    return mask, ()


def served(lib, xp, q, k, v, mask, *upstream):
    """Whether a kernel may run: float32, and nothing non-finite that a mask would have to hide.

    A library that cannot tell without waiting for its device hides that by itself.
    """
    floats = (q, k, v) if mask is None or mask.dtype == bool else (q, k, v, mask)
    if any(array.dtype != xp.float32 for array in floats):
        return False
    if not hasattr(lib.runtime, "all_finite"):
        return True
    hidden = (k, v) if mask is None else (q, k, v, *upstream)  # a mask may hide whole queries
    return all(lib.runtime.all_finite(array) for array in hidden)


def rows_contiguous(xp, array):
    return array if array.strides[-1] == array.itemsize else xp.ascontiguousarray(array)


def attention_sample(draw):
    batch, heads = draw.size("B"), min(draw.size("H", low=1), 12)
    kv_heads = heads // draw.choice((1, 1, heads, 3 if heads % 3 == 0 else heads))
    length, keys = draw.size("T"), draw.size("T", low=1)
    width, value_width = draw.size("D", low=1), draw.size("D", low=1)
    mask = draw.choice(("none", "none", "bool", "float"))
    full = (batch, heads, length, keys)
    axes = tuple(draw.choice((n, 1)) for n in full) if mask != "none" else ()
    causal = draw.boolean()
    return [
        draw.normal(batch, heads, length, width),
        draw.normal(batch, kv_heads, keys, width),
        draw.normal(batch, kv_heads, keys, value_width),
        {"none": None, "bool": draw.mask(*axes), "float": draw.normal(*axes)}[mask],
    ], {
        "causal": causal,
        "offset": draw.choice((0, 0, 3)),
        "scale": draw.choice((None, None, 0.5)),
        "window": draw.choice((None, 1, 4, 20)) if causal else None,
    }


def rotary_embedding_forward(xp, x, cos, sin, *, interleaved=False):
    """Each pair of x turned by its angle (Su et al. 2021, RoFormer)

    x (..., T, D); cos and sin broadcast to (..., T, R/2), R <= D even; the first R features turn.
    Pairs are (i, i + R/2), Hugging Face's layout, or (2i, 2i + 1) with interleaved=True.
    """
    return turned(xp, x, cos, sin, interleaved), (cos, sin)


def rotary_embedding_backward(xp, grad, saved, *, interleaved=False):
    cos, sin = saved
    return turned(xp, grad, cos, -sin, interleaved), None, None


def rotary_embedding_kernel_forward(lib, xp, x, cos, sin, *, interleaved=False):
    out = rotary_turned(lib, xp, x, cos, sin, interleaved)
    return out if out is NotImplemented else (out, (cos, sin))


def rotary_embedding_kernel_backward(lib, xp, grad, saved, *, interleaved=False):
    cos, sin = saved
    out = rotary_turned(lib, xp, grad, cos, -sin, interleaved)
    return out if out is NotImplemented else (out, None, None)


def rotary_turned(lib, xp, x, cos, sin, interleaved):
    """One table of angles for all rows, as models have it."""
    tables = cos.dtype == sin.dtype == x.dtype == xp.float32 and cos.ndim == 2
    if not tables or not x.size:
        return NotImplemented
    out = xp.empty(x.shape, x.dtype)
    lib.rotary_embedding_forward(
        xp.ascontiguousarray(x).reshape(-1, x.shape[-1]),
        xp.ascontiguousarray(cos),
        xp.ascontiguousarray(sin),
        interleaved,
        out.reshape(-1, x.shape[-1]),
    )
    return out


def turned(xp, x, cos, sin, interleaved):
    half = cos.shape[-1]
    out = x.copy()
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if interleaved
        else (slice(0, half), slice(half, 2 * half))
    )
    a, b = x[..., first], x[..., second]
    out[..., first] = a * cos - b * sin
    out[..., second] = b * cos + a * sin
    return out


def rotary_check(x, cos, sin, *, interleaved=False):
    if not all(is_array(array) for array in (x, cos, sin)) or cos.shape != sin.shape:
        raise ValueError("rotary_embedding: cos and sin of one shape are needed")
    if x.ndim < 2 or 2 * cos.shape[-1] > x.shape[-1] or cos.shape[-2] not in (1, x.shape[-2]):
        raise ValueError(
            f"rotary_embedding: x {x.shape} and angles {cos.shape}, "
            "(..., T, D) and (..., T, R/2) with R <= D are needed"
        )


def rotary_sample(draw):
    half = draw.size("D", low=1)
    batch = draw.choice(((), (draw.size("B"),), (draw.size("B"), 2)))
    x = draw.normal(*batch, draw.size("T"), 2 * half + draw.choice((0, 1)))
    angle = draw.normal(x.shape[-2], half)
    return [x, draw.cos(angle), draw.sin(angle)], {"interleaved": draw.boolean()}


scaled_dot_product_attention = Op(
    scaled_dot_product_attention_forward,
    scaled_dot_product_attention_backward,
    attention_sample,
    check=attention_check,
    kernel_forward=scaled_dot_product_attention_kernel_forward,
    kernel_backward=scaled_dot_product_attention_kernel_backward,
)
rotary_embedding = Op(
    rotary_embedding_forward,
    rotary_embedding_backward,
    rotary_sample,
    check=rotary_check,
    kernel_forward=rotary_embedding_kernel_forward,
    kernel_backward=rotary_embedding_kernel_backward,
    constant=(1, 2),
)

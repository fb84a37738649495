"""Heads in and out of the feature axis, and attention through an optional cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from minillm import ops
from minillm.arrays import xp_of
from minillm.nn.layers import Dropout
from minillm.ops.attention import within
from minillm.tensor import Tensor


class LayerCache(Protocol):
    """Keys and values of the positions seen so far."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, Hkv, T, D) to `layer` and return everything it holds."""


@runtime_checkable
class AttendingCache(Protocol):
    """A cache that attends by itself."""

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        layer: int,
        mask: Any,
        causal: bool,
        scale: float | None,
        window: int | None,
    ) -> Tensor:
        """What `attend` gives for these new queries, keys and values."""


class MemoryCache(LayerCache, Protocol):
    """A cache that also keeps the keys and values of what an encoder gave."""

    length: int

    def memory(
        self, layer: int, project: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """What `project` gave for `layer` the first time; it is not called again."""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, H * D) as (B, H, T, D)."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).permute(0, 2, 1, 3)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, D) as (B, T, H * D)."""
    batch, heads, length, width = x.shape
    return x.permute(0, 2, 1, 3).reshape(batch, length, heads * width)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layer: int = 0,
    cache: LayerCache | AttendingCache | None = None,
    mask: Any = None,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    dropout: Dropout | None = None,
) -> Tensor:
    """Causal attention of q (B, H, T, D) over the cached prefix and itself.

    With a `window`, each query sees that many positions, itself the last of them. `dropout` acts on
    the weights of causal attention. ValueError for a mask beside one of them.
    """
    new = k.shape[2]
    if isinstance(cache, AttendingCache):
        return cache.attend(
            q, k, v, layer=layer, mask=mask, causal=causal, scale=scale, window=window
        )
    if cache is not None:
        k, v = cache.update(layer, k, v)
    offset = k.shape[2] - new if causal else 0
    dropping = dropout is not None and dropout.active
    if (window is not None or dropping) and (mask is not None or not causal):
        raise ValueError("attend: a window and dropout need causal attention without another mask")
    if window is not None:
        first = max(0, offset - window + 1)  # no query sees what lies before
        if first:
            k, v, offset = k[:, :, first:], v[:, :, first:], offset - first
        window = window if k.shape[2] > window else None
    if dropout is not None and dropping:
        k, v = (repeated(keys, q.shape[1]) for keys in (k, v))
        if window is not None:
            mask = within(xp_of(k.data), window, new, k.shape[2], offset)
        return attend_dropping(q, k, v, dropout, mask=mask, causal=True, scale=scale)
    return ops.scaled_dot_product_attention(
        q, k, v, mask, causal=causal, offset=offset, scale=scale, window=window
    )


def repeated(x: Tensor, heads: int) -> Tensor:
    """Keys or values (B, Hkv, T, D) once for each of the query heads that share them."""
    batch, kv_heads, length, width = x.shape
    if kv_heads == heads:
        return x
    shape = (batch, kv_heads, heads // kv_heads, length, width)
    return ops.broadcast_to(x[:, :, None], shape=shape).reshape(batch, heads, length, width)


def attend_dropping(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout: Callable[[Tensor], Tensor],
    *,
    mask: Any = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Attention with dropout on its weights, which takes the steps one by one to reach them.

    q, k, v (B, H, T, D), H of them equal; `mask` is boolean (True attends) or added to the scores,
    `causal` hides the keys after each query, `scale` is 1/sqrt(D) if None.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = (q * scale) @ k.transpose(2, 3)
    if mask is not None:
        hides = mask.dtype == bool
        scores = scores.masked_fill(~mask, -math.inf) if hides else scores + mask
    if causal:
        keys = xp_of(q.data).arange(k.shape[2])
        scores = scores.masked_fill(keys > keys[-q.shape[2] :, None], -math.inf)
    return dropout(ops.softmax(scores)) @ v

"""Multi-head attention on itself or on a memory, with PyTorch's names."""

from __future__ import annotations

from typing import Any

import numpy

from minillm import ops
from minillm.nn.attention import MemoryCache, attend_dropping, merge_heads, split_heads
from minillm.nn.layers import Dropout, Generator, Linear, uniform
from minillm.nn.module import Module
from minillm.nn.parameter import Parameter
from minillm.tensor import Tensor


class MultiheadAttention(Module):
    """Queries from x (B, T, C); keys and values from x too, or from `memory` (B, S, C).

    in_proj_weight (3C, C) holds queries, keys and values in this order (Vaswani et al. 2017,
    section 3.2.2). `mask` is boolean, (B, 1, 1, S), True for keys that may be seen. `layer` is its
    place in the cache. Dropout acts on the attention weights. The residual, where given, is added
    to the result.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        layer: int = 0,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"MultiheadAttention: {num_heads} heads do not divide the width {embed_dim}"
            )
        self.heads, self.layer = num_heads, layer
        bound = (1.5 / embed_dim) ** 0.5  # Glorot and Bengio 2010: sqrt(6 / (C + 3C))
        self.in_proj_weight = uniform((3 * embed_dim, embed_dim), bound, generator)
        self.in_proj_bias = Parameter(numpy.zeros(3 * embed_dim, numpy.float32))
        self.dropout = Dropout(dropout)
        self.out_proj = Linear(embed_dim, embed_dim, generator=generator)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        mask: Any = None,
        causal: bool = False,
        cache: MemoryCache | None = None,
    ) -> Tensor:
        if memory is None and mask is None and cache is None and not self.dropout.active:
            joint = ops.linear(x, self.in_proj_weight, self.in_proj_bias)
            mixed = ops.packed_attention(joint, heads=self.heads, causal=causal)
            return self.out_proj(mixed, residual)
        if memory is None:
            q, k, v = self._heads(x, 0, 3)
            if cache is not None:
                k, v = cache.update(self.layer, k, v)
        else:
            (q,) = self._heads(x, 0, 1)
            k, v = self._of_memory(memory, cache)
        if self.dropout.active:
            mixed = attend_dropping(q, k, v, self.dropout, mask=mask, causal=causal)
        else:
            offset = k.shape[2] - q.shape[2] if causal else 0
            mixed = ops.scaled_dot_product_attention(q, k, v, mask, causal=causal, offset=offset)
        return self.out_proj(merge_heads(mixed), residual)

    def _of_memory(self, memory: Tensor, cache: MemoryCache | None) -> tuple[Tensor, Tensor]:
        def project() -> tuple[Tensor, Tensor]:
            k, v = self._heads(memory, 1, 3)
            return k, v

        return project() if cache is None else cache.memory(self.layer, project)

    def _heads(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        """Projections number `first` to `last` of x, each (B, H, T, D)."""
        width = x.shape[-1]
        rows = slice(first * width, last * width)
        joint = ops.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return [
            split_heads(joint[..., start * width : (start + 1) * width], self.heads)
            for start in range(last - first)
        ]

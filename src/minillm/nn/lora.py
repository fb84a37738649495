"""Low-rank adaptation (Hu et al. 2021): a frozen linear layer and what is learnt beside it."""

from __future__ import annotations

import math

import numpy

from minillm import ops
from minillm.nn.layers import Dropout, Generator, Linear, constant, linear, uniform
from minillm.nn.module import Module
from minillm.nn.parameter import Parameter
from minillm.tensor import Tensor


class LoRALinear(Linear):
    """base(x) + scaling * dropout(x) @ lora_A.T @ lora_B.T

    lora_A (rank, in), lora_B (out, rank), which starts at 0. `scaling` is alpha / rank, or
    alpha / sqrt(rank) where it is rank-stabilised (Kalajdzievski 2023). The base keeps its weight,
    which may lie in the blocks of a file, and takes no gradient.
    """

    def __init__(
        self,
        base: Linear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rslora: bool = False,
        generator: Generator | None = None,
    ) -> None:
        Module.__init__(self)
        if rank < 1:
            raise ValueError(f"lora: rank {rank}, 1 or more is needed")
        self.weight, self.bias = base.weight, base.bias
        out_features, in_features = base.weight.shape
        self.lora_A = uniform((rank, in_features), 1 / math.sqrt(in_features), generator)
        self.lora_B = constant((out_features, rank), 0.0)
        self.scaling = alpha / (math.sqrt(rank) if rslora else rank)
        self.dropout = Dropout(dropout)
        for frozen in (self.weight, self.bias):
            if frozen is not None:
                frozen.requires_grad_(False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out = linear(x, self.weight, self.bias, residual)
        low = ops.linear(self.dropout(x), self.lora_A)
        return ops.linear(low * self.scaling, self.lora_B, None, out)

    def delta(self) -> numpy.ndarray:
        """What is added to the weight, (out, in) float64."""
        a, b = (p.numpy().astype(numpy.float64) for p in (self.lora_A, self.lora_B))
        return self.scaling * (b @ a)

    def merged(self) -> Linear:
        """A plain layer with the sum as its weight; this one stays as it is."""
        whole = Linear.__new__(Linear)
        Module.__init__(whole)
        weight = self.weight.numpy()
        whole.weight = Parameter((weight + self.delta()).astype(weight.dtype))
        whole.bias = self.bias
        return whole

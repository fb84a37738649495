"""Layers with PyTorch's names, shapes and initial values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy

from minillm import ops
from minillm.arrays import default_generator, drawn_seed
from minillm.nn.module import Module
from minillm.nn.parameter import DeferredParameter, Parameter, held_blocks, init_skipped
from minillm.ops.feed_forward import ACTIVATIONS as FUSED
from minillm.tensor import Tensor

Generator = numpy.random.Generator


def uniform(shape: tuple[int, ...], bound: float, generator: Generator | None) -> Parameter:
    """A float32 Parameter drawn from (-bound, bound), or without values within `skip_init`."""
    if init_skipped():
        return DeferredParameter(shape)
    generator = generator or default_generator
    return Parameter(generator.uniform(-bound, bound, shape).astype(numpy.float32))


def normal(shape: tuple[int, ...], std: float, generator: Generator | None) -> Parameter:
    """A float32 Parameter drawn from N(0, std**2), or without values within `skip_init`."""
    if init_skipped():
        return DeferredParameter(shape)
    generator = generator or default_generator
    return Parameter(generator.normal(0.0, std, shape).astype(numpy.float32))


def constant(shape: tuple[int, ...], value: float) -> Parameter:
    """A float32 Parameter that is `value` everywhere, or without values within `skip_init`."""
    if init_skipped():
        return DeferredParameter(shape)
    return Parameter(numpy.full(shape, value, numpy.float32))


def linear(
    x: Tensor, weight: Parameter, bias: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    """x @ weight.T + bias + residual, from the blocks of a file where the weight is still there."""
    held = held_blocks(weight)
    if held is None:
        return ops.linear(x, weight, bias, residual)
    return ops.block_linear(x, held.raw, bias, residual, kind=held.kind)


class Linear(Module):
    """x @ weight.T + bias + residual; weight (out_features, in_features)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = uniform((out_features, in_features), bound, generator)
        self.bias = uniform((out_features,), bound, generator) if bias else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return linear(x, self.weight, self.bias, residual)


class Embedding(Module):
    """weight[ids]; weight (num_embeddings, embedding_dim). The row padding_idx gets no gradient.

    Of a weight that still lies in the blocks of a file only the rows asked for are decoded.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        generator: Generator | None = None,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__()
        self.weight = normal((num_embeddings, embedding_dim), 1.0, generator)
        self.padding_idx = padding_idx
        if padding_idx is not None and not init_skipped():
            self.weight.data[padding_idx] = 0

    def forward(self, ids: Any) -> Tensor:
        held = held_blocks(self.weight)
        if held is not None:
            return ops.block_embedding(held.raw, ids, kind=held.kind)
        rows = ops.embedding(self.weight, ids)
        if self.padding_idx is None or not rows.requires_grad:
            return rows
        padding = ids == self.padding_idx
        if not padding.any():
            return rows
        return ops.where(padding[..., None], self.weight.data[self.padding_idx], rows)


class LayerNorm(Module):
    """Normalisation over the last axis, then weight and bias."""

    def __init__(self, normalized_shape: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.weight = constant((normalized_shape,), 1.0)
        self.bias = constant((normalized_shape,), 0.0) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """Division by the root mean square over the last axis, then weight."""

    def __init__(self, normalized_shape: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = constant((normalized_shape,), 1.0)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, eps=self.eps)


class Dropout(Module):
    """While training, zeroes elements with probability p and divides the rest by 1 - p."""

    def __init__(self, p: float = 0.5, generator: Generator | None = None) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"Dropout: p={p}, 0 <= p < 1 is needed")
        self.p = p
        self.generator = generator

    @property
    def active(self) -> bool:
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        return ops.dropout(x, p=self.p, seed=drawn_seed(self.generator or default_generator))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": ops.gelu,
    "gelu_tanh": lambda x: ops.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),  # Hendrycks and Gimpel 2016, section 2
    "relu": ops.relu,
    "sigmoid": ops.sigmoid,
    "silu": ops.silu,
    "tanh": ops.tanh,
}


def feed_forward(
    x: Tensor, first: Linear, second: Linear, activation: str, residual: Tensor | None = None
) -> Tensor:
    """second(activation(first(x))) + residual, as one operation where that knows the activation."""
    apart = held_blocks(first.weight) or held_blocks(second.weight)
    adapted = type(first) is not Linear or type(second) is not Linear
    if activation not in FUSED or apart or adapted:
        return second(ACTIVATIONS[activation](first(x)), residual)
    return ops.feed_forward(
        x,
        first.weight,
        first.bias,
        second.weight,
        second.bias,
        residual,
        activation=activation,
    )


class FeedForward(Module):
    """second(activation(first(x))) + residual; the activation is a name in ACTIVATIONS."""

    def __init__(self, width: int, hidden: int, activation: str, bias: bool = True) -> None:
        super().__init__()
        self.first = Linear(width, hidden, bias)
        self.second = Linear(hidden, width, bias)
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return feed_forward(x, self.first, self.second, self.activation, residual)


class GatedFeedForward(Module):
    """down(activation(gate(x)) * up(x)) + residual; with silu: SwiGLU (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int, activation: str, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(width, hidden, bias)
        self.up_proj = Linear(width, hidden, bias)
        self.down_proj = Linear(hidden, width, bias)
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        gate = ACTIVATIONS[self.activation](self.gate_proj(x))
        return self.down_proj(gate * self.up_proj(x), residual)


class GELU(Module):
    """x * Phi(x), exact ("none") or GPT-2's tanh form ("tanh")."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return ops.gelu(x, approximate=self.approximate)

"""The operations. Importing this package also gives Tensor its operators and methods."""

from __future__ import annotations

from typing import Any

import numpy

from minillm.arrays import is_array
from minillm.op import Op, registry
from minillm.ops.activation import gelu, relu, sigmoid, silu, tanh
from minillm.ops.adamw8bit import adamw8bit
from minillm.ops.arith import (
    add,
    clip,
    divide,
    exp,
    log,
    masked_fill,
    multiply,
    negative,
    power,
    sqrt,
    subtract,
    where,
)
from minillm.ops.attention import rotary_embedding, scaled_dot_product_attention
from minillm.ops.block_embedding import block_embedding
from minillm.ops.block_linear import block_linear
from minillm.ops.dropout import dropout
from minillm.ops.feed_forward import feed_forward
from minillm.ops.linear import embedding, linear, matmul
from minillm.ops.loss import cross_entropy, linear_cross_entropy
from minillm.ops.muon import muon
from minillm.ops.norm import layer_norm, rms_norm
from minillm.ops.packed_attention import packed_attention
from minillm.ops.reduce import max, mean, norm, sum
from minillm.ops.shape import broadcast_to, concatenate, getitem, permute, reshape
from minillm.ops.softmax import log_softmax, softmax
from minillm.ops.update import adamw, lerp, sgd
from minillm.tensor import Tensor, of

__all__ = ["Op", "registry", *registry]


def _operand(value: Any) -> Any:
    """NumPy scalars as Python numbers, so that they do not widen float32."""
    if isinstance(value, (int, float)) or is_array(value):  # a union type is slower
        return value
    if isinstance(value, numpy.generic):
        return value.item()
    return NotImplemented


def _binary(op: Op, swapped: bool = False) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        if not isinstance(other, Tensor):
            other = _operand(other)
            if other is NotImplemented:
                return NotImplemented
        return op(other, self) if swapped else op(self, other)

    return method


def _unary(op: Op) -> Any:
    return lambda self: op(self)


def _getitem(self: Tensor, index: Any) -> Tensor:
    if isinstance(index, Tensor):
        index = index.data
    elif isinstance(index, tuple):
        index = tuple(part.data if isinstance(part, Tensor) else part for part in index)
    return getitem(self, index=index)


def _reduction(op: Op) -> Any:
    def method(self: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor:
        return op(self, axis=axis, keepdims=keepdims)

    return method


def _shape(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(arguments[0]) if isinstance(arguments[0], tuple | list) else arguments


def _transpose(self: Tensor, axis0: int, axis1: int) -> Tensor:
    axes = list(range(self.ndim))
    axes[axis0], axes[axis1] = axes[axis1], axes[axis0]
    return permute(self, axes=tuple(axes))


def _compare(name: str) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        other = other.data if isinstance(other, Tensor) else _operand(other)
        if other is NotImplemented:
            return NotImplemented
        return of(getattr(self.data, name)(other))

    return method


def _bind() -> None:
    for symbol, op in (("add", add), ("sub", subtract), ("mul", multiply), ("truediv", divide)):
        setattr(Tensor, f"__{symbol}__", _binary(op))
        setattr(Tensor, f"__r{symbol}__", _binary(op, swapped=True))
    for symbol in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Tensor, f"__{symbol}__", _compare(f"__{symbol}__"))
    methods = {
        "__matmul__": _binary(matmul),
        "__rmatmul__": _binary(matmul, swapped=True),
        "__neg__": _unary(negative),
        "__pow__": lambda self, exponent: power(self, exponent=exponent),
        "__getitem__": _getitem,
        "sum": _reduction(sum),
        "mean": _reduction(mean),
        "max": _reduction(max),
        "reshape": lambda self, *shape: reshape(self, shape=_shape(shape)),
        "permute": lambda self, *axes: permute(self, axes=_shape(axes)),
        "transpose": _transpose,
        "T": property(lambda self: permute(self, axes=tuple(range(self.ndim))[::-1])),
        "exp": _unary(exp),
        "log": _unary(log),
        "sqrt": _unary(sqrt),
        "tanh": _unary(tanh),
        "masked_fill": lambda self, mask, value: masked_fill(self, mask, value=value),
    }
    for name, method in methods.items():
        setattr(Tensor, name, method)


_bind()

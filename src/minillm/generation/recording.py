"""What a decoder's forward does for one token, written down as steps on rows.

The model is run once while every operation it dispatches is recorded (`op.recording`). For one
token all shapes are rows, so that reshapes and permutations of heads move nothing, and what is left
is a list of kernel calls on rows. A model that does anything else is Unplanned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy

from minillm.arrays import Array, is_gpu_array, to_numpy
from minillm.blocks import KINDS
from minillm.nn import blocks_of
from minillm.op import Op, recording
from minillm.ops import block_embedding, embedding
from minillm.tensor import Tensor, no_grad, of

LookUp = Callable[[Array], Array]  # rows (n, width) of an embedding for ids (n)
POSITION = 1  # of the token that is recorded
NOTHING = numpy.zeros(1, numpy.float32)
NOTHING.setflags(write=False)


class Unplanned(Exception):
    """The model does something a plan has no step for; the text says what."""


class Row(NamedTuple):
    """What stands for a tensor of the recorded token: floats of a value, from `offset` on."""

    value: int
    offset: int
    width: int


class Step(NamedTuple):
    """A call of the extension's Plan: its values, then what else it needs."""

    name: str
    out: Row
    inputs: tuple[Row | None, ...]
    settings: dict[str, Any]


class Recorder:
    """Writes down what is dispatched; also the cache that the recorded model attends through."""

    length = POSITION

    def __init__(self, model: Any) -> None:
        self.ids = numpy.zeros((1, 1), numpy.int64)
        self.steps: list[Step] = []
        self.inputs: list[tuple[LookUp, bool]] = []  # embeddings; whether looked up by position
        self.widths: list[int] = []
        self._rotary = getattr(model, "rotary", None)
        self._views: dict[str, tuple[tuple[int, ...], int, int]] = {}  # shape, place, width
        self._rows: dict[int, Row] = {}
        self._kept: list[Tensor] = []  # while ids of objects stand for them
        self._handlers: dict[str, Callable[..., Tensor]] = {
            "embedding": self._embedding,
            "block_embedding": self._block_embedding,
            "linear": self._linear,
            "block_linear": self._block_linear,
            "feed_forward": self._feed_forward,
            "rms_norm": self._rms_norm,
            "layer_norm": self._layer_norm,
            "rotary_embedding": self._rotate,
            "gelu": self._gelu,
            "silu": self._silu,
            "add": self._add,
            "multiply": self._multiply,
        }
        with recording(self), no_grad():
            self.result = self.row(model(self.ids, self))

    def __call__(self, op: Op, inputs: Sequence[Any], params: dict[str, Any]) -> Tensor:
        if op.name in ("reshape", "permute", "getitem"):
            return self._view(op, inputs[0], params)
        handler = self._handlers.get(op.name)
        if handler is None:
            raise Unplanned(f"{op.name} has no step")
        return handler(*inputs, **params)

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
        if mask is not None or not causal:
            raise Unplanned("attention with a mask has no step")
        heads, kv_heads, size = q.shape[1], k.shape[1], q.shape[3]
        return self._step(
            "attend",
            (*q.shape[:3], v.shape[3]),
            (q, k, v),
            layer=layer,
            heads=heads,
            kv_heads=kv_heads,
            scale=1 / math.sqrt(size) if scale is None else scale,
            window=window or 0,
        )

    def row(self, tensor: Any) -> Row:
        try:
            return self._rows[id(tensor)]
        except KeyError:
            raise Unplanned("an operand is no row of the token") from None

    def _new(self, shape: Sequence[int]) -> Tensor:
        width = math.prod(shape)
        self.widths.append(width)
        return self._known(shape, Row(len(self.widths) - 1, 0, width))

    def _known(self, shape: Sequence[int], row: Row) -> Tensor:
        """A tensor of that shape, without numbers, that stands for a row."""
        strides = (0,) * len(shape)
        tensor = of(numpy.ndarray(tuple(shape), numpy.float32, NOTHING, strides=strides))
        self._kept.append(tensor)
        self._rows[id(tensor)] = row
        return tensor

    def _step(
        self, name: str, shape: Sequence[int], operands: Sequence[Any], /, **settings: Any
    ) -> Tensor:
        rows = tuple(None if operand is None else self.row(operand) for operand in operands)
        out = self._new(shape)
        self.steps.append(Step(name, self.row(out), rows, settings))
        return out

    def _view(self, op: Op, x: Tensor, params: dict[str, Any]) -> Tensor:
        """A part of a row, in order, as it is found by doing the same with its numbers' places."""
        row, asked = self.row(x), f"{op.name} {x.shape} {params}"
        found = self._views.get(asked)
        if found is None:
            found = _part(op, row.width, x.shape, params)
            if op.name != "getitem":  # sizes and axes, which each layer asks alike
                self._views[asked] = found
        shape, place, width = found
        return self._known(shape, Row(row.value, row.offset + place, width))

    def _embedding(self, weight: Any, ids: Any) -> Tensor:
        return self._input(lambda ids: embedding.compute(weight.data, ids)[0], weight.shape[1], ids)

    def _block_embedding(self, blocks: Any, ids: Any, *, kind: str) -> Tensor:
        width = blocks.shape[1] // KINDS[kind].block_bytes * KINDS[kind].elements
        return self._input(
            lambda ids: block_embedding.compute(blocks, ids, kind=kind)[0], width, ids
        )

    def _input(self, look_up: LookUp, width: int, ids: Any) -> Tensor:
        by_position = ids is not self.ids
        if by_position and not (ids.size == 1 and ids.reshape(-1)[0] == POSITION):
            raise Unplanned("an embedding of anything but ids and positions has no step")
        if self.steps or any(known == by_position for _, known in self.inputs):
            raise Unplanned("an embedding after other steps has no step")
        self.inputs.append((look_up, by_position))
        return self._new((*ids.shape, width))

    def _linear(self, x: Tensor, weight: Any, bias: Any = None, residual: Any = None) -> Tensor:
        found = blocks_of(weight)
        data: Any = weight.data if found is None else None
        if is_gpu_array(data) and data.dtype == numpy.float32 and data.flags.c_contiguous:
            found = KINDS["F32"].id, data.view(numpy.uint8), *weight.shape
        if found is None:
            raise Unplanned(f"weights of {weight.dtype} have no step")
        return self._product(x, found, bias, residual)

    def _block_linear(
        self, x: Tensor, blocks: Any, bias: Any = None, residual: Any = None, *, kind: str
    ) -> Tensor:
        found = KINDS[kind].id, blocks, len(blocks), x.shape[-1]
        return self._product(x, found, bias, residual)

    def _product(self, x: Tensor, weight: Any, bias: Any, residual: Any) -> Tensor:
        kind, raw, outputs, inputs = weight
        return self._step(
            "linear",
            (*x.shape[:-1], outputs),
            (x, residual),
            kind=kind,
            weight=raw,
            bias=bias,
            outputs=outputs,
            inputs=inputs,
        )

    def _feed_forward(
        self,
        x: Tensor,
        weight1: Any,
        bias1: Any,
        weight2: Any,
        bias2: Any,
        residual: Any = None,
        *,
        activation: str = "gelu_tanh",
    ) -> Tensor:
        hidden = self._linear(x, weight1, bias1)
        return self._linear(self._activation(hidden, activation), weight2, bias2, residual)

    def _rms_norm(self, x: Tensor, weight: Any = None, *, eps: float = 1e-6) -> Tensor:
        return self._step("rms_norm", x.shape, (x,), weight=weight, eps=eps, width=x.shape[-1])

    def _layer_norm(
        self, x: Tensor, weight: Any = None, bias: Any = None, *, eps: float = 1e-5
    ) -> Tensor:
        width = x.shape[-1]
        return self._step(
            "layer_norm", x.shape, (x,), weight=weight, bias=bias, eps=eps, width=width
        )

    def _rotate(self, x: Tensor, cos: Any, sin: Any, *, interleaved: bool = False) -> Tensor:
        known = None
        if self._rotary is not None and not self._rotary.depends_on_length:
            known = self._rotary.angles(POSITION, POSITION + 1, numpy.float32(0))
        if (
            known is None
            or interleaved
            or 2 * cos.shape[-1] != x.shape[-1]
            or not (
                numpy.array_equal(known.cos, to_numpy(cos))
                and numpy.array_equal(known.sin, to_numpy(sin))
            )
        ):
            raise Unplanned("these rotary angles have no step")
        return self._step("rotate", x.shape, (x,), head=x.shape[-1])

    def _gelu(self, x: Tensor, *, approximate: str = "none") -> Tensor:
        return self._activation(x, "gelu_tanh" if approximate == "tanh" else "gelu")

    def _silu(self, x: Tensor) -> Tensor:
        return self._activation(x, "silu")

    def _activation(self, x: Tensor, name: str) -> Tensor:
        return self._step("activate", x.shape, (x,), name=name)

    def _add(self, a: Any, b: Any) -> Tensor:
        return self._same("add", a, b)

    def _multiply(self, a: Any, b: Any) -> Tensor:
        return self._same("multiply", a, b)

    def _same(self, name: str, a: Any, b: Any) -> Tensor:
        if self.row(a).width != self.row(b).width:
            raise Unplanned(f"{name} of rows of two widths has no step")
        return self._step(name, a.shape if a.ndim >= b.ndim else b.shape, (a, b))


def _part(
    op: Op, width: int, shape: tuple[int, ...], params: dict[str, Any]
) -> tuple[tuple[int, ...], int, int]:
    """The shape of what an operation that views a row gives, where in the row, and how wide."""
    places, _ = op.forward(numpy, numpy.arange(width).reshape(shape), **params)
    flat = places.reshape(-1)
    if not flat.size or (flat != numpy.arange(flat[0], flat[0] + flat.size)).any():
        raise Unplanned(f"{op.name} that moves features has no step")
    return places.shape, int(flat[0]), flat.size

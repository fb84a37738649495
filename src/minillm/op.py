"""Op: one operation, defined once over `xp`, with accelerators that claim it by name.

An op is a handful of plain functions joined by one line. For `softmax`:

    softmax_forward(xp, x, *, axis)            -> (out, saved)
    softmax_backward(xp, grad, saved, *, axis) -> one gradient for each array input (or None)
    softmax_kernel_forward(lib, xp, x, *, axis)
    softmax_kernel_backward(lib, xp, grad, saved, *, axis)
        the same, served by a compiled library; NotImplemented hands a case to the reference
    softmax_check(x, *, axis)                  raises one clear line for impossible input
    softmax_sample(draw)                       -> (inputs, params), valid ones of any size

An op with `accumulates` has a backward shim (lib, xp, grad, saved, totals): for each of those
inputs `totals` may hold the gradient so far; the shim adds to it and returns that very array.

`saved` is the same for every provider. Inputs are never written (but see `mutates`), `out` is a new
array object of the input's dtype.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType, ModuleType
from typing import Any

import numpy

from minillm import kernels
from minillm.arrays import Array, checked, placed, xp_of
from minillm.tensor import Node, Tensor, grad_mode, result

registry: dict[str, Op] = {}
Recorder = Callable[["Op", Sequence[Any], dict[str, Any]], Tensor]


class _Recording(threading.local):
    by: Recorder | None = None


_recording = _Recording()


@contextmanager
def recording(by: Recorder) -> Iterator[None]:
    """Inside the block (this thread only) no operation is run: `by` is asked for the results."""
    before, _recording.by = _recording.by, by
    try:
        yield
    finally:
        _recording.by = before


class Op:
    """A registered operation; calling it takes and returns Tensors.

    `constant` names the inputs (by place) that never receive a gradient; `accumulates` those whose
    gradient a kernel may add to a total; `mutates` those an update rule changes in place, counted
    from the start of each group of `group_size` inputs. Kernels may round an input to the relative
    precision that `rounds` gives its place. Ops without a backward are computed on raw arrays by
    `compute`.
    """

    __slots__ = (
        "_check",
        "_kernel_backward",
        "_kernel_forward",
        "_libraries",
        "accumulates",
        "backward",
        "constant",
        "doc",
        "forward",
        "group_size",
        "mutates",
        "name",
        "rounds",
        "sample",
    )

    def __init__(
        self,
        forward: Callable[..., tuple[Array, Any]],
        backward: Callable[..., Sequence[Any]] | None,
        sample: Callable[..., tuple[list[Any], dict[str, Any]]],
        *,
        check: Callable[..., None] | None = None,
        kernel_forward: Callable[..., Any] | None = None,
        kernel_backward: Callable[..., Any] | None = None,
        constant: tuple[int, ...] = (),
        accumulates: tuple[int, ...] = (),
        mutates: tuple[int, ...] = (),
        group_size: int = 1,
        rounds: Mapping[int, float] = MappingProxyType({}),
    ) -> None:
        self.name = forward.__name__.removesuffix("_forward")
        self.doc = forward.__doc__
        self.forward = forward
        self.backward = backward
        self.sample = sample
        self.constant = constant
        self.accumulates = accumulates
        self.mutates = mutates
        self.group_size = group_size
        self.rounds = rounds
        self._check = check
        self._kernel_forward = kernel_forward
        self._kernel_backward = kernel_backward
        self._libraries: dict[ModuleType, tuple[Any, Any]] = {}
        if registry.setdefault(self.name, self) is not self:
            raise ValueError(f"op: {self.name} is defined twice")

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def kernels(self, lib: ModuleType | None) -> tuple[Any, Any]:
        """The shims (forward, backward) that `lib` serves, None for each it does not."""
        if lib is None:
            return _NONE
        try:
            return self._libraries[lib]
        except KeyError:
            pass
        forward = self._kernel_forward if hasattr(lib, f"{self.name}_forward") else None
        claimed = hasattr(lib, f"{self.name}_backward") or (
            forward is not None and self._kernel_backward is not None and self.composes()
        )
        shims = forward, self._kernel_backward if claimed else None
        self._libraries[lib] = shims
        return shims

    def mutated(self, count: int) -> list[int]:
        """Which of `count` inputs are changed in place."""
        return [place for place in range(count) if place % self.group_size in self.mutates]

    def composes(self) -> bool:
        """Whether the backward shim calls nothing but the op's own forward function."""
        shim = self._kernel_backward
        return shim is not None and f"{self.name}_backward" not in shim.__code__.co_names

    def __call__(self, *inputs: Any, **params: Any) -> Tensor:
        if _recording.by is not None:
            return _recording.by(self, inputs, params)
        arrays = []
        record = False
        for value in inputs:
            if isinstance(value, Tensor):
                arrays.append(value.data)
                record = record or value.requires_grad
            else:
                arrays.append(_operand(self.name, value))
        for name, value in params.items():
            if isinstance(value, numpy.generic):  # unlike a Python number, it widens float32
                params[name] = value.item()
        out, saved = self._run(arrays, params)
        if record and grad_mode.enabled:
            return result(out, Node(self, inputs, saved, params), inputs)
        return result(out, None, inputs)

    def compute(self, *arrays: Any, **params: Any) -> tuple[Array, Any]:
        """forward on raw arrays, by the best active provider: (out, saved)."""
        return self._run(arrays, params)

    def _run(self, arrays: Sequence[Any], params: dict[str, Any]) -> tuple[Array, Any]:
        xp = numpy if _modules.get("cupy") is None else xp_of(*arrays)
        if xp is numpy:
            if self._check is not None:
                self._check(*arrays, **params)
        else:  # what a model is given, ids and targets, comes from the host, where it is checked
            if self._check is not None:
                checked(self._check, arrays, params)
            arrays = [placed(xp, array) if type(array) is ndarray else array for array in arrays]
        if self._kernel_forward is not None:
            shim = self.kernels(kernels.library(xp))[0]
            if shim is not None:
                served = shim(kernels.library(xp), xp, *arrays, **params)
                if served is not NotImplemented:
                    return served
        return self.forward(xp, *arrays, **params)

    def run_backward(
        self, grad: Array, saved: Any, params: dict[str, Any], totals: Sequence[Any] = ()
    ) -> Sequence[Any]:
        """backward on raw arrays, by the best active provider.

        A gradient that is an element of `totals` itself has been added to it.
        """
        xp = numpy if type(grad) is ndarray else xp_of(grad)
        if self._kernel_backward is not None:
            shim = self.kernels(kernels.library(xp))[1]
            if shim is not None:
                given = (grad, saved, totals) if self.accumulates else (grad, saved)
                served = shim(kernels.library(xp), xp, *given, **params)
                if served is not NotImplemented:
                    return served
        if self.backward is None:
            raise RuntimeError(f"{self.name}: this operation has no gradient")
        return self.backward(xp, grad, saved, **params)


def targets(xp: Any, totals: Sequence[Any], *shapes: Any) -> tuple[list[Any], list[bool]]:
    """Where a kernel puts its float32 gradients: each total there is, else a new array.

    A shape of None is an input that was not given. The second list says where to add.
    """
    arrays, add = [], []
    for place, shape in enumerate(shapes):
        total = totals[place] if place < len(totals) else None
        if total is None and shape is not None:
            arrays.append(xp.empty(shape, xp.float32))
        else:
            arrays.append(total)
        add.append(total is not None)
    return arrays, add


def _operand(name: str, value: Any) -> Any:
    """What is no Tensor: a NumPy scalar as a Python number, which does not widen float32."""
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, list | tuple):
        raise TypeError(
            f"{name}: a {type(value).__name__} given, a Tensor or an array is needed; "
            "convert it with numpy.asarray"
        )
    return value


ndarray, _NONE, _modules = numpy.ndarray, (None, None), sys.modules

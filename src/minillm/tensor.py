"""Tensor and the tape: arrays that remember how they were made, and `backward()` through them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy

from minillm.arrays import (
    Array,
    beside,
    default_generator,
    device_of,
    is_array,
    is_gpu_array,
    to_device,
    to_numpy,
    xp_of,
)

FLOATS = (numpy.dtype(numpy.float32), numpy.dtype(numpy.float64))


class _GradMode(threading.local):
    enabled = True


grad_mode = _GradMode()
_order = itertools.count()


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing on the tape inside the block (this thread only); also a decorator."""
    before, grad_mode.enabled = grad_mode.enabled, False
    try:
        yield
    finally:
        grad_mode.enabled = before


@contextmanager
def enable_grad() -> Iterator[None]:
    """Record on the tape inside the block, even within `no_grad`."""
    before, grad_mode.enabled = grad_mode.enabled, True
    try:
        yield
    finally:
        grad_mode.enabled = before


class Differentiable(Protocol):
    """What the tape needs of an operation."""

    name: str
    accumulates: tuple[int, ...]  # the inputs whose gradient may be added to its element of totals

    def run_backward(
        self, grad: Array, saved: Any, params: dict[str, Any], totals: Sequence[Any] = ()
    ) -> Sequence[Any]: ...


class Node:
    """One recorded operation. Holds what its backward needs, never its own output Tensor."""

    __slots__ = ("dtype", "op", "order", "params", "parents", "saved", "versions")

    parents: list[Node | Tensor | None]
    versions: list[tuple[Tensor, int]]  # what may change in place, as it was when it was used
    dtype: numpy.dtype  # of its output

    def __init__(
        self, op: Differentiable, inputs: Sequence[object], saved: Any, params: dict[str, Any]
    ) -> None:
        self.op = op
        self.saved = saved
        self.params = params
        self.order = next(_order)
        parents: list[Node | Tensor | None] = []
        self.parents = parents
        self.versions = versions = []
        for value in inputs:
            if not isinstance(value, Tensor):
                parents.append(None)
                continue
            if value._version is not _READ_ONLY:
                versions.append((value, value._version[0]))
            parents.append(value._node or (value if value.requires_grad else None))

    def check_unmodified(self) -> None:
        """Raise RuntimeError if an array this node saved was changed in place meanwhile."""
        for tensor, version in self.versions:
            if tensor._version[0] != version and any(
                kept is tensor.data
                or (type(kept) is numpy.ndarray and numpy.may_share_memory(kept, tensor.data))
                for kept in self.saved
            ):
                raise RuntimeError(
                    f"backward: an input of {self.op.name} of shape {tensor.shape} was modified "
                    f"after it was used (version {version}, now {tensor._version[0]}), its old "
                    "value is needed for the gradient; modify a copy instead"
                )

    def free(self) -> None:
        self.saved, self.parents, self.versions = None, [], []


class Tensor:
    """An array with a gradient.

    `data` is the array (float32 or float64 to be differentiable), `grad` a Tensor of the same shape
    or None. `Tensor(data)` copies; Python floats become float32, ints int64. The result of an
    operation is read-only; a leaf is changed in place by `t[...] = value`, `copy_` and the like,
    which `backward` notices if it needs the old value. Gradients accumulate in place in `grad`.
    Raises TypeError for float16 (a storage format: convert it) and for data that is not numeric.
    """

    __slots__ = ("__weakref__", "_node", "_version", "data", "grad", "requires_grad")
    __array_ufunc__ = None  # NumPy scalars and arrays on the left leave the operation to Tensor
    __hash__ = object.__hash__

    data: Array
    grad: Tensor | None
    requires_grad: bool
    _node: Node | None
    _version: list[int]  # shared by all Tensors over one writable array; op results are read-only

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None) -> None:
        if isinstance(data, Tensor):
            data = data.data
        if dtype is None and not hasattr(data, "dtype"):
            kind = numpy.asarray(data).dtype.kind
            dtype = numpy.float32 if kind == "f" else None
        if is_array(data):
            xp_of(data)  # a copy lies on the current device: let that be the array's own
            array = data.astype(dtype or data.dtype)
        else:
            array = numpy.array(data, dtype)
        if array.dtype.kind not in "fiub" or array.dtype == numpy.float16:
            raise TypeError(
                f"Tensor: dtype {array.dtype} cannot be computed with, float32 or float64 "
                "(or integers, booleans) needed; convert with array.astype('float32')"
            )
        self.data = array
        self.grad = None
        self._node = None
        self._version = [0]
        self.requires_grad = False
        self.requires_grad_(requires_grad)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set whether a leaf collects gradients. TypeError unless it is float32 or float64."""
        if requires_grad and self.data.dtype not in FLOATS:
            raise TypeError(
                f"Tensor: only float32 and float64 can require a gradient, this is {self.dtype}"
            )
        if self._node is not None and not requires_grad:
            raise RuntimeError("requires_grad_: only leaves can be changed; use detach()")
        self.requires_grad = requires_grad
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def dtype(self) -> numpy.dtype:
        return self.data.dtype

    @property
    def device(self) -> str:
        """Where the values lie: "cpu" or "cuda:N"."""
        return device_of(self.data)

    def __len__(self) -> int:
        if not self.data.ndim:
            raise TypeError("len: a Tensor of shape () has no length")
        return self.data.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[place] for place in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.item())

    def __repr__(self) -> str:
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({numpy.array2string(to_numpy(self.data), prefix='Tensor(')}{grad})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> numpy.ndarray:
        return numpy.array(to_numpy(self.data), dtype=dtype, copy=copy)

    def item(self) -> float:
        """The only element as a Python number. ValueError if there is not exactly one."""
        if self.data.size != 1:
            raise ValueError(
                f"item: exactly 1 element is needed, shape {self.shape} has {self.size}"
            )
        return self.data.item()

    def numpy(self) -> numpy.ndarray:
        """The values in host memory, without a copy where that is possible."""
        return to_numpy(self.data)

    def detach(self) -> Tensor:
        """The same values, cut from the tape (shared memory)."""
        other = of(self.data)
        other._version = self._version
        return other

    def to(self, device: str) -> Tensor:
        """A leaf with the same values on "cpu", "cuda" or "cuda:N"."""
        other = of(to_device(self.data, device))
        other.requires_grad = self.requires_grad
        return other

    def copy_(self, value: Any) -> Tensor:
        """Overwrite a leaf in place; shapes must be equal (ValueError)."""
        source = value.data if isinstance(value, Tensor) else value
        source = source if is_array(source) else numpy.asarray(source)
        if source.shape != self.data.shape:
            raise ValueError(f"copy_: shape {source.shape} given, {self.data.shape} is needed")
        self._write(..., source)
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, Tensor):
            if grad_mode.enabled and value.requires_grad:
                raise RuntimeError(
                    "setitem: assigning a Tensor that requires a gradient is not recorded; "
                    "build the result with where or concatenate, or assign under no_grad()"
                )
            value = value.data
        self._write(index, value)

    def _write(self, index: Any, value: Any) -> None:
        if self._node is not None or not getattr(self.data.flags, "writeable", True):
            raise RuntimeError(
                "setitem: the result of an operation is read-only; write into a copy: Tensor(t)"
            )
        if self.requires_grad and grad_mode.enabled:
            raise RuntimeError(
                "setitem: a leaf that requires a gradient is changed in place only under no_grad()"
            )
        self.data[index] = beside(value, self.data) if is_array(value) else value
        self._version[0] += 1

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to the `grad` of every leaf that requires it.

        `gradient` is the upstream gradient, of this Tensor's shape; 1 if left out, which needs a
        single element (RuntimeError). The tape is freed on the way unless `retain_graph`; a second
        pass over a freed tape raises RuntimeError. There is no double backprop.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this Tensor does not require a gradient")
        backward(self, gradient, retain_graph)

    if TYPE_CHECKING:  # bound by minillm.ops, where the operations are defined
        T: Tensor

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, exponent: float) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def permute(self, *axes: int) -> Tensor: ...
        def transpose(self, axis0: int, axis1: int) -> Tensor: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def tanh(self) -> Tensor: ...
        def masked_fill(self, mask: Any, value: float) -> Tensor: ...


def of(array: Array) -> Tensor:
    """A leaf over `array` itself, without a copy."""
    tensor = Tensor.__new__(Tensor)
    tensor.data = array
    tensor.grad = None
    tensor.requires_grad = False
    tensor._node = None
    tensor._version = [0]
    return tensor


def result(array: Array, node: Node | None, inputs: Sequence[object]) -> Tensor:
    """The Tensor that an operation on `inputs` returns: read-only, `node` its place on the tape."""
    if type(array) is not ndarray and not is_gpu_array(array):
        array = numpy.asarray(array)  # ufuncs turn arrays of shape () into scalars
    if type(array) is ndarray:
        array.setflags(write=False)
    tensor = _new(Tensor)
    tensor.data, tensor.grad, tensor._node = array, None, node
    tensor.requires_grad = node is not None
    tensor._version = _READ_ONLY if array.base is None else _version_of_view(array, inputs)
    if node is not None:
        node.dtype = array.dtype
    return tensor


def _version_of_view(view: Array, inputs: Sequence[object]) -> list[int]:
    """The counter of the input whose memory `view` shows: it counts that memory's changes."""
    for value in inputs:
        if isinstance(value, Tensor) and (view.base is value.data or view.base is value.data.base):
            return value._version
    return _READ_ONLY


ndarray, _new, _READ_ONLY = numpy.ndarray, Tensor.__new__, [0]
_NO_GRADIENT = (None, False)


def backward(root: Tensor, gradient: Any, retain_graph: bool) -> None:
    """Walk the tape from `root` against the order of recording, each node once."""
    upstream = _upstream(root, gradient)
    if root._node is None:
        _accumulate(root, upstream, owned=True)
        return
    pending: dict[Node, tuple[Array, bool]] = {root._node: (upstream, True)}
    for node in _reachable(root._node):
        if node not in pending:
            continue
        grad, grad_owned = pending.pop(node)
        node.check_unmodified()
        totals = _totals(node, pending, grad) if node.op.accumulates else ()
        gradients = node.op.run_backward(grad, node.saved, node.params, totals)
        shared = _shared(gradients)
        for place, (parent, part) in enumerate(zip(node.parents, gradients)):
            if parent is None or part is None:
                continue
            if totals and part is totals[place]:  # added already
                if isinstance(parent, Tensor) and parent.grad is not None:
                    parent.grad._version[0] += 1
                continue
            if type(part) is not ndarray and not is_array(part):
                part = numpy.asarray(part)
            owned = part.base is None and id(part) not in shared
            owned = owned and (part is not grad or grad_owned)
            if isinstance(parent, Tensor):
                _accumulate(parent, part, owned)
                continue
            if part.dtype != parent.dtype:
                part, owned = part.astype(parent.dtype), True
            if parent in pending:
                pending[parent] = _add(*pending[parent], part, owned), True
            else:
                pending[parent] = part, owned
        if not retain_graph:
            node.free()


def _upstream(root: Tensor, gradient: Any) -> Array:
    """The gradient to start from, in an array of its own: the tape may add to it."""
    if gradient is None:
        if root.size != 1:
            raise RuntimeError(
                f"backward: shape {root.shape} has {root.size} elements, a scalar is needed; "
                "pass gradient= or reduce it first"
            )
        filled = root.data.copy()
        filled.fill(1)
        return filled
    if isinstance(gradient, Tensor):
        gradient = gradient.data
    if not is_array(gradient):
        gradient = numpy.asarray(gradient, root.dtype)
    if gradient.shape != root.shape:
        raise ValueError(f"backward: gradient of shape {gradient.shape} given, {root.shape} needed")
    return beside(gradient, root.data).astype(root.dtype, order="C")


def _reachable(root: Node) -> list[Node]:
    """Nodes that lead to `root`, latest first: consumers come before what they consumed."""
    seen, stack, nodes = {root}, [root], []
    while stack:
        node = stack.pop()
        if node.saved is None:
            raise RuntimeError(
                "backward: the tape was freed by an earlier backward(); run the forward pass again "
                "or pass retain_graph=True the first time"
            )
        nodes.append(node)
        for parent in node.parents:
            if type(parent) is Node and parent not in seen:
                seen.add(parent)
                stack.append(parent)
    nodes.sort(key=lambda node: -node.order)
    return nodes


def _totals(node: Node, pending: dict[Node, tuple[Array, bool]], grad: Array) -> list[Array | None]:
    """For each parent the array that collects its gradient, where `node` may add to it in place.

    That is where nobody else sees the array: no other input of `node`, nothing saved; and it lies
    where `grad` does, so that a kernel can.
    """
    totals: list[Array | None] = [None] * len(node.parents)
    for place in node.op.accumulates[: len(totals)]:
        parent = node.parents[place]
        if isinstance(parent, Node):
            total, alone = pending.get(parent, _NO_GRADIENT)
        elif parent is None or parent.grad is None:
            continue
        else:
            total = parent.grad.data
            alone = not any(_overlap(kept, total) for kept in node.saved)
        if (
            alone
            and total.dtype == parent.dtype
            and _can_add(total, grad)
            and sum(other is parent for other in node.parents) == 1
        ):
            totals[place] = total
    return totals


def _can_add(total: Array, grad: Array) -> bool:
    """Whether what has read `grad` can add to `total` in place, row by row."""
    if type(total) is ndarray:
        return type(grad) is ndarray and total.flags.carray
    return total.flags.c_contiguous and device_of(total) == device_of(grad)


def _overlap(array: object, other: object) -> bool:
    if type(array) is ndarray or not is_gpu_array(array):
        return type(array) is type(other) is ndarray and numpy.may_share_memory(array, other)
    return is_gpu_array(other) and xp_of(array).may_share_memory(array, other)


def _shared(gradients: Sequence[Any]) -> set[int]:
    """Ids of the arrays whose memory more than one gradient shows."""
    seen: set[int] = set()
    shared: set[int] = set()
    for part in gradients:
        if part is not None:
            base = getattr(part, "base", None)
            owner = id(part if base is None else base)
            (shared if owner in seen else seen).add(owner)
    return shared


def _add(total: Array, owned: bool, part: Array, part_owned: bool) -> Array:
    if total.dtype == part.dtype:
        if owned:
            total += part
            return total
        if part_owned:
            part += total
            return part
    return total + part


def _accumulate(leaf: Tensor, part: Array, owned: bool) -> None:
    data = leaf.data
    if part.shape != data.shape:
        raise RuntimeError(f"backward: gradient of shape {part.shape} for a leaf {data.shape}")
    if leaf.grad is None:
        own = owned and part.dtype == data.dtype and part.flags.c_contiguous
        leaf.grad = of(part if own else part.astype(data.dtype, order="C"))
    else:
        leaf.grad.data += part
        leaf.grad._version[0] += 1


class _Checkpoint:
    name = "checkpoint"
    accumulates: tuple[int, ...] = ()

    def run_backward(
        self, grad: Array, saved: Any, params: dict[str, Any], totals: Sequence[Any] = ()
    ) -> Sequence[Any]:
        function, wanted, state, *arrays = saved
        inputs = [of(array).requires_grad_(want) for array, want in zip(arrays, wanted)]
        now = default_generator.bit_generator.state
        default_generator.bit_generator.state = state
        try:
            with enable_grad():
                again = function(*inputs)
        finally:
            default_generator.bit_generator.state = now
        if again.requires_grad:
            backward(again, grad, retain_graph=False)
        return [None if leaf.grad is None else leaf.grad.data for leaf in inputs]


_checkpoint = _Checkpoint()


def checkpoint(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), keeping only the inputs: the block is run again during `backward`.

    Trades one more forward pass for the memory of the block's activations (Chen et al. 2016,
    "Training deep nets with sublinear memory cost"). `function` maps Tensors to one Tensor and must
    be deterministic apart from the default generator, whose state is replayed.
    """
    if not grad_mode.enabled:
        return function(*inputs)
    state = default_generator.bit_generator.state
    with no_grad():
        out = function(*inputs)
    saved = (function, [t.requires_grad for t in inputs], state, *[t.data for t in inputs])
    return result(out.data.view(), Node(_checkpoint, inputs, saved, {}), inputs)

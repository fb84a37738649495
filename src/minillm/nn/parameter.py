"""Parameters: leaves that modules register, also such as get their values when first used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy

from minillm import devices, kernels
from minillm.arrays import Array, device_of, is_gpu_array, to_device
from minillm.blocks import KINDS, decode_rows
from minillm.tensor import Tensor, grad_mode

Built = TypeVar("Built")


class Parameter(Tensor):
    """A leaf Tensor that a Module registers and an optimiser changes."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)


class Held(NamedTuple):
    """A matrix as the blocks of a file: kind in minillm.blocks, bytes (rows, bytes of a row)."""

    kind: str
    raw: Array


class Source(Protocol):
    """What gives values later: a read-only (mapped) array, or what decodes into a new one.

    Where it has a method `blocks`, that gives kind and bytes of a matrix, or None.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __array__(self) -> numpy.ndarray: ...


class _Pending(NamedTuple):
    """Stands in the place of an array that is not there yet."""

    shape: tuple[int, ...]
    dtype: numpy.dtype
    source: Source | None
    held: tuple[Held | None] | None = None  # not asked for yet
    device: str = devices.CPU  # where what is held lies, and the values will


_slot: Any = Tensor.__dict__["data"]  # where a Tensor keeps its array
_lock = threading.RLock()


class DeferredParameter(Parameter):
    """A Parameter that takes no memory until its values are first used, plain from then on.

    `defer` says where they will come from; RuntimeError if they are used before that.
    """

    __slots__ = ()

    def __init__(self, shape: tuple[int, ...], dtype: Any = numpy.float32) -> None:
        _slot.__set__(self, _Pending(tuple(shape), numpy.dtype(dtype), None))
        self.grad = None
        self.requires_grad = True
        self._node = None
        self._version = [0]

    def defer(self, source: Source) -> None:
        """Take the values from `source` at first use, in this Parameter's dtype."""
        if tuple(source.shape) != self.shape:
            raise ValueError(f"defer: shape {source.shape} given, {self.shape} is needed")
        _slot.__set__(self, _slot.__get__(self)._replace(source=source))

    @property
    def data(self) -> Array:
        with _lock:
            pending = _slot.__get__(self)
            if isinstance(pending, _Pending):  # or another thread was quicker
                if pending.source is None:
                    raise RuntimeError(
                        f"Parameter: values of shape {pending.shape} used before any were given, "
                        "load_state_dict is needed"
                    )
                if pending.device != devices.CPU and pending.held and pending.held[0]:
                    self.data = decode_rows(*pending.held[0])
                else:
                    array = numpy.asarray(pending.source, pending.dtype, order="C")
                    self.data = array if array.flags.writeable else array.copy()
            return _slot.__get__(self)

    @data.setter
    def data(self, array: Array) -> None:
        with _lock:
            _slot.__set__(self, array)
            self.__class__ = Parameter  # type: ignore[assignment]

    def move(self, device: str) -> None:
        """Go to "cpu", "cuda" or "cuda:N".

        To a GPU as blocks if there are any, else widened on the way; back on the host as if
        nothing had moved.
        """
        with _lock:
            pending = _slot.__get__(self)
            if not isinstance(pending, _Pending):
                self.data = to_device(pending, device)
                return
            number = devices.number_of(device)
            device = devices.CPU if number is None else f"cuda:{number}"
            if pending.device == device:
                return
            if number is None:
                _slot.__set__(self, pending._replace(held=None, device=device))
                return
            held = _held(pending)
            if held is None or held.kind == "F32":
                self.data = to_device(self.data, device)
                return
            there = Held(held.kind, to_device(held.raw, device))
            _slot.__set__(self, pending._replace(held=(there,), device=device))

    @property
    def held(self) -> Held | None:
        """The blocks that the values would be decoded from; None if there are none, or no more."""
        with _lock:
            pending = _slot.__get__(self)
            if not isinstance(pending, _Pending):
                return None
            found = pending.held
            if found is None:
                found = (_held(pending),)
                _slot.__set__(self, pending._replace(held=found))
            return found[0]

    @property
    def nbytes(self) -> int:
        """Bytes of the values where they lie now."""
        pending = _slot.__get__(self)
        return getattr(pending.source if isinstance(pending, _Pending) else pending, "nbytes", 0)

    @property
    def device(self) -> str:
        pending = _slot.__get__(self)
        return pending.device if isinstance(pending, _Pending) else device_of(pending)

    @property
    def shape(self) -> tuple[int, ...]:
        return _slot.__get__(self).shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(numpy.prod(self.shape, dtype=object))

    @property
    def dtype(self) -> numpy.dtype:
        return _slot.__get__(self).dtype


KIND_OF_DTYPE = {numpy.dtype("<f4"): "F32", numpy.dtype("<f2"): "F16"}


def _held(pending: _Pending) -> Held | None:
    """The blocks of a source, or a mapped matrix as such."""
    source: Any = pending.source
    if pending.dtype != numpy.float32 or len(pending.shape) != 2:
        return None
    if isinstance(source, numpy.ndarray):
        kind = KIND_OF_DTYPE.get(source.dtype)
        if kind is None or not source.flags.c_contiguous:
            return None
        return Held(kind, source.view(numpy.uint8).reshape(pending.shape[0], -1))
    found = source.blocks() if hasattr(source, "blocks") else None
    return None if found is None else Held(*found)


def held_blocks(parameter: Tensor) -> Held | None:
    """The blocks to compute from; None where the values are used, which widens them once for all.

    They are used to train, on the host without the extension (decoding again and again would be
    slow), and where blocks save nothing: of float32. What takes no gradient is multiplied as blocks
    in any case, so that none is computed for it.
    """
    held = _multiplied(parameter)
    if held is not None or parameter.requires_grad:
        return held
    data = parameter.data
    if data.ndim != 2 or data.dtype != numpy.float32 or not data.flags.c_contiguous:
        return None
    return Held("F32", data.view(numpy.uint8))


def _multiplied(parameter: Tensor) -> Held | None:
    """The blocks that are not widened yet, where they are multiplied as such."""
    if not isinstance(parameter, DeferredParameter):
        return None
    if grad_mode.enabled and parameter.requires_grad:
        return None
    held = parameter.held if kernels.multiplies_blocks(parameter.device) else None
    return None if held is None or held.kind == "F32" else held


def lying(parameter: Tensor) -> Array:
    """The array that values are computed from: of blocks that are not widened, their bytes."""
    held = parameter.held if isinstance(parameter, DeferredParameter) else None
    return parameter.data if held is None else held.raw


def blocks_of(parameter: Tensor) -> tuple[int, Array, int, int] | None:
    """(ggml type, bytes (m, bytes of a row), m, k) of a matrix (m, k), as it lies and not copied.

    Its numbers if it has been widened, or for a float32 matrix. None for what is no such thing: a
    matrix of float64, numbers on a GPU, an order that no blocks have.
    """
    if parameter.ndim != 2:
        return None
    held = parameter.held if isinstance(parameter, DeferredParameter) else None
    if held is None:
        data = parameter.data
        if is_gpu_array(data) or data.dtype != numpy.float32 or not data.flags.c_contiguous:
            return None
        held = Held("F32", data.view(numpy.uint8))
    return KINDS[held.kind].id, held.raw, *parameter.shape


class _Mode(threading.local):
    skipped = False


_mode = _Mode()


def init_skipped() -> bool:
    """Whether `skip_init` is building: then nothing is drawn and parameters stay without values."""
    return _mode.skipped


def skip_init(build: Callable[..., Built], *arguments: Any, **options: Any) -> Built:
    """build(*arguments, **options), its weights without values or memory, for load_state_dict."""
    before, _mode.skipped = _mode.skipped, True
    try:
        return build(*arguments, **options)
    finally:
        _mode.skipped = before

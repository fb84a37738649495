"""Parameters: leaves that modules register, also such as get their values when first used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy

from minillm.arrays import Array
from minillm.tensor import Tensor

Built = TypeVar("Built")


class Parameter(Tensor):
    """A leaf Tensor that a Module registers and an optimiser changes."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)


class Source(Protocol):
    """What gives values later: a read-only (mapped) array, or what decodes into a new one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __array__(self) -> numpy.ndarray: ...


class _Pending(NamedTuple):
    """Stands in the place of an array that is not there yet."""

    shape: tuple[int, ...]
    dtype: numpy.dtype
    source: Source | None


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
                array = numpy.asarray(pending.source, pending.dtype, order="C")
                self.data = array if array.flags.writeable else array.copy()
            return _slot.__get__(self)

    @data.setter
    def data(self, array: Array) -> None:
        with _lock:
            _slot.__set__(self, array)
            self.__class__ = Parameter  # type: ignore[assignment]

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

"""A CUDA graph of one batch: what is captured, and the few numbers that change from step to step.

A batch is captured with its arrays on the GPU, so that no value of it can steer the host: whoever
looks at one is refused. What the host sends besides is then a function of shapes alone. Seeds of
dropout and the gradient's scale are read from the GPU's memory, and operations check the arrays of
each batch on the host, as they did when it was captured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy

from minillm.arrays import Array, default_generator

SEEDS = 1 << 63  # as many as there are


class Refused(Exception):
    """Why a batch cannot be captured."""


def _look(self: Any, *_: Any) -> Any:
    raise Refused("its loss looks at a number of the batch")


class Unseen:
    """A number of a batch, which may be another one the next time."""

    __getattr__ = __bool__ = __eq__ = __ne__ = __hash__ = _look  # type: ignore[assignment]
    __int__ = __float__ = __index__ = __array__ = __lt__ = __le__ = __gt__ = __ge__ = _look
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __neg__ = _look
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = _look


class Knobs:
    """The gradient's scale and the seeds of dropout, in 64 bits each, where a graph reads them."""

    def __init__(self, cupy: ModuleType, seeds: int) -> None:
        self.cupy, self.dtype, self.seeds = cupy, numpy.dtype(numpy.float32), seeds
        self.there = cupy.zeros(1 + seeds, numpy.uint64)

    def scale(self, dtype: numpy.dtype) -> Array:
        """An array () of the loss's dtype."""
        self.dtype = dtype
        return self.there[:1].view(dtype)[:1].reshape(())

    def seed(self, place: int) -> Array:
        return self.there[1 + place : 2 + place]

    def turn(self, scale: float) -> None:
        """Set them for a batch: the seeds are the next ones of the default generator."""
        values = numpy.zeros(1 + self.seeds, numpy.uint64)
        values[:1].view(self.dtype)[0] = scale
        values[1:] = [int(default_generator.integers(SEEDS)) for _ in range(self.seeds)]
        self.there[...] = self.cupy.asarray(values)


Check = tuple[Callable[..., None], list[Any], dict[str, Any]]


class Capture:
    """Decides, while a batch is captured, what becomes of what the host knows (`Placing`)."""

    def __init__(
        self,
        host: Sequence[numpy.ndarray],
        there: Sequence[Array],
        knobs: Knobs,
        constants: Callable[[numpy.ndarray], Array],
    ) -> None:
        self.host, self.knobs, self.constants = host, knobs, constants
        self._places = {id(array): place for place, array in enumerate(there)}
        self._vouched: list[Array] = []
        self._seeds: dict[int, int] = {}
        self._begun = _state()
        self.checks: list[Check] = []

    def check(
        self, check: Callable[..., None], arrays: Sequence[Any], params: dict[str, Any]
    ) -> None:
        """Now with this batch's arrays; it is kept for those of later ones."""
        places = [self._places.get(id(array)) for array in arrays]
        given = [self._known(a) if n is None else self.host[n] for n, a in zip(places, arrays)]
        check(*given, **params)
        if any(place is not None for place in places):
            kept = [_hollow(a) if n is None else _Place(n) for n, a in zip(places, arrays)]
            self.checks.append((check, kept, params))

    def _known(self, value: Any) -> Any:
        """An input that is no array of the batch: whoever looks into it is refused by CUDA."""
        return _hollow(value) if any(value is one for one in self._vouched) else value

    def vouch(self, array: Array) -> None:
        self._vouched.append(array)

    def place(self, xp: ModuleType, array: numpy.ndarray) -> Array:
        return self.constants(array)

    def seed(self, generator: numpy.random.Generator, drawn: int) -> Array:
        if generator is not default_generator:
            raise Refused("its dropout has a generator of its own")
        place = self._seeds.setdefault(drawn, len(self._seeds))  # recomputation draws it again
        if place >= self.knobs.seeds:
            raise Refused("its dropout draws another number of seeds from batch to batch")
        return self.knobs.seed(place)

    def require_only_seeds(self) -> None:
        """Refused if more was drawn than seeds: it would be drawn once and for all."""
        now = _state()
        default_generator.bit_generator.state = self._begun
        for _ in self._seeds:
            default_generator.integers(SEEDS)
        if len(self._seeds) != self.knobs.seeds or str(_state()) != str(now):
            raise Refused("the model draws other random numbers than dropout's seeds")


def _state() -> Any:
    return default_generator.bit_generator.state


class _Place(int):
    """The number of an array of the batch."""


def _hollow(value: Any) -> Any:
    """Shape and dtype of an array, with zeros for its numbers."""
    if not hasattr(value, "dtype") or isinstance(value, numpy.ndarray):
        return value
    return numpy.broadcast_to(numpy.zeros((), value.dtype), value.shape)


def check_again(checks: Sequence[Check], arrays: Sequence[numpy.ndarray]) -> None:
    """Let operations check the arrays of another batch."""
    for check, kept, params in checks:
        check(*[arrays[one] if type(one) is _Place else one for one in kept], **params)

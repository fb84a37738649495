"""Array libraries, devices and seeded generators: the only file that knows where arrays live."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Protocol

import numpy

from minillm import devices

Array = Any  # numpy.ndarray or cupy.ndarray


def xp_of(*arrays: object) -> ModuleType:
    """The array library of `arrays`: cupy if one of them is on a GPU, else numpy.

    That GPU becomes the current one of this thread, where what is computed next will lie.
    ValueError for arrays of two GPUs: a kernel would read one's memory on the other.
    """
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return numpy
    found = [array.device.id for array in arrays if isinstance(array, cupy.ndarray)]
    if not found:
        return numpy
    number = found[0]
    if found.count(number) != len(found):
        other = next(one for one in found if one != number)
        raise ValueError(f"arrays lie on cuda:{number} and cuda:{other}, one device is needed")
    if cupy.cuda.runtime.getDevice() != number:
        cupy.cuda.Device(number).use()
    return cupy


def is_gpu_array(value: object) -> bool:
    """Whether `value` is a CuPy array; CuPy is not imported to find out."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, cupy.ndarray)


def is_array(value: object) -> bool:
    return isinstance(value, numpy.ndarray) or is_gpu_array(value)


def known(condition: Any) -> bool:
    """Whether it is true and the host knows without waiting; never for what a GPU has found."""
    return not is_gpu_array(condition) and bool(condition)


def to_numpy(array: Array) -> numpy.ndarray:
    """The array in host memory; the same object if it is there already."""
    return array.get() if is_gpu_array(array) else numpy.asarray(array)


def to_device(array: Array, device: str) -> Array:
    """The array on `device`, "cpu", "cuda" or "cuda:N"; the same object if it is there already.

    Raises ValueError for an unknown device, RuntimeError where CuPy or that GPU is missing.
    """
    number = devices.number_of(device)
    if number is None:
        return to_numpy(array)
    if is_gpu_array(array):
        if array.device.id == number:
            return array
        devices.use(number)
        return array.copy()  # from GPU to GPU
    return placed(devices.use(number), array)


def copied(array: Array) -> Array:
    """A copy on the same device; CuPy alone makes it on the current GPU."""
    xp_of(array)
    return array.copy()


def device_of(array: Array) -> str:
    """ "cpu", or "cuda:N"."""
    return f"cuda:{array.device.id}" if is_gpu_array(array) else devices.CPU


class Placing(Protocol):
    """Who decides, inside `placing`, what becomes of what the host knows and a GPU needs."""

    def check(
        self, check: Callable[..., None], arrays: Sequence[Any], params: dict[str, Any]
    ) -> None:
        """Let an operation check its inputs, as the host has them."""

    def place(self, xp: ModuleType, array: numpy.ndarray) -> Array:
        """The array on the GPU that is the current one."""

    def seed(self, generator: numpy.random.Generator, drawn: int) -> Any:
        """The seed that was drawn, a number or an array (1,) of uint64."""

    def vouch(self, array: Array) -> None:
        """These ids, computed on the GPU, are in range if those that they come from are."""


class _Placing(threading.local):
    by: Placing | None = None


_placing = _Placing()


@contextmanager
def placing(by: Placing) -> Iterator[None]:
    """Inside the block (this thread only) `by` is asked what a GPU is given."""
    before, _placing.by = _placing.by, by
    try:
        yield
    finally:
        _placing.by = before


def placed(xp: ModuleType, array: numpy.ndarray) -> Array:
    """The array of the host where `xp` computes."""
    if xp is numpy:
        return array
    return xp.asarray(array) if _placing.by is None else _placing.by.place(xp, array)


def checked(check: Callable[..., None], arrays: Sequence[Any], params: dict[str, Any]) -> None:
    """Let an operation that computes on a GPU check its inputs."""
    if _placing.by is None:
        check(*arrays, **params)
    else:
        _placing.by.check(check, arrays, params)


def unseen(array: Array) -> bool:
    """Whether it lies on a GPU and nobody answers for it: the host would have to wait to look."""
    return _placing.by is None and is_gpu_array(array)


def vouched(array: Array) -> Array:
    """The ids themselves, of which nobody but their maker can know that they are in range."""
    if _placing.by is not None and is_gpu_array(array):
        _placing.by.vouch(array)
    return array


def drawn_seed(generator: numpy.random.Generator) -> Any:
    """A seed for an operation that draws: a number, or where the GPU will find it."""
    seed = int(generator.integers(1 << 63))
    return seed if _placing.by is None else _placing.by.seed(generator, seed)


def beside(array: Array, other: Array) -> Array:
    """The array on the device of `other`; the same object if it is there already."""
    return to_device(array, device_of(other))


def numbers(arrays: Sequence[Array]) -> list[float]:
    """Arrays of one element each as Python numbers; a GPU is waited for once."""
    return to_numpy(xp_of(*arrays).stack(arrays)).tolist() if arrays else []


def scatter_add(xp: ModuleType, target: Array, index: Any, values: Array) -> None:
    """target[index] += values, where every repetition of an index counts; contiguous arrays."""
    if xp is numpy:
        numpy.add.at(target, index, values)
    else:
        import cupyx

        add_pairwise(xp, cupyx.scatter_add, target, index, values)


def add_pairwise(
    xp: ModuleType, scatter: Callable[..., Any], target: Array, index: Any, values: Array
) -> None:
    """The same by a `scatter` that may add in any order, as the atomic additions of CuPy do.

    The values of one place are added to each other first, in pairs and in the order in which they
    come; `scatter` is given one number for each place, and zeros.
    """
    if is_array(index) and index.dtype.kind in "iu":
        index = placed(xp, index) if isinstance(index, numpy.ndarray) else index
        places, target = index.reshape(-1), target.reshape(len(target), -1)
        places = xp.where(places < 0, places + len(target), places)
    else:
        places = xp.arange(target.size).reshape(target.shape)[index].reshape(-1)
        target = target.reshape(-1, 1)
    if not places.size or not target.size:
        return
    order = places.argsort()
    places, sums = places[order], values.reshape(places.size, -1)[order]
    reach = 1  # sums[i] is that of values i to i + reach of its place
    while reach < places.size:
        more = (places[reach:] == places[:-reach]).reshape(-1, 1)
        sums[:-reach] += xp.where(more, sums[reach:], sums.dtype.type(0))
        reach *= 2
    begins = xp.ones((places.size, 1), bool)
    begins[1:, 0] = places[1:] != places[:-1]
    scatter(target, places, xp.where(begins, sums, sums.dtype.type(0)))


def new_generator(*seeds: int) -> numpy.random.Generator:
    """A generator whose stream is a function of `seeds` alone (each 0 or more)."""
    sequence = numpy.random.SeedSequence(seeds, spawn_key=(len(seeds),))  # (1,) is not (1, 0)
    return numpy.random.Generator(numpy.random.Philox(sequence))


default_generator = new_generator(0)
"""Draws initial weights and dropout seeds wherever no generator is passed; see `manual_seed`."""


def manual_seed(*seeds: int) -> None:
    """Restart the default generator from `seeds`."""
    default_generator.bit_generator.state = new_generator(*seeds).bit_generator.state

"""Array libraries, devices and seeded generators: the only file that knows where arrays live."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy

Array = Any  # numpy.ndarray or cupy.ndarray


def xp_of(*arrays: object) -> ModuleType:
    """The array library of `arrays`: cupy if one of them is on the GPU, else numpy."""
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        for array in arrays:
            if isinstance(array, cupy.ndarray):
                return cupy
    return numpy


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
    """The array on `device`, "cpu" or "cuda"; the same object if it is there already.

    Raises ValueError for an unknown device, RuntimeError where CuPy or a GPU is missing.
    """
    if device == "cpu":
        return to_numpy(array)
    if device == "cuda":
        cupy = _cupy()
        try:
            return cupy.asarray(array)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise RuntimeError(
                f"device: 'cuda' cannot be used ({error}), a GPU with a driver for the CUDA of "
                "CuPy is needed"
            ) from error
    raise ValueError(f"device: {device!r} is not known, 'cpu' or 'cuda' is needed")


def beside(array: Array, other: Array) -> Array:
    """The array on the device of `other`; the same object if it is there already."""
    return to_device(array, "cuda" if is_gpu_array(other) else "cpu")


def _cupy() -> ModuleType:
    try:
        import cupy
    except ImportError as error:
        raise RuntimeError(
            "device: 'cuda' needs CuPy, which is not installed; "
            "install the extra cuda12 or cuda13 that matches your driver"
        ) from error
    return cupy


def scatter_add(xp: ModuleType, target: Array, index: Any, values: Array) -> None:
    """target[index] += values, where every repetition of an index counts."""
    if xp is numpy:
        numpy.add.at(target, index, values)
    else:
        import cupyx

        cupyx.scatter_add(target, index, values)


def new_generator(*seeds: int) -> numpy.random.Generator:
    """A generator whose stream is a function of `seeds` alone (each 0 or more)."""
    sequence = numpy.random.SeedSequence(seeds, spawn_key=(len(seeds),))  # (1,) is not (1, 0)
    return numpy.random.Generator(numpy.random.Philox(sequence))


default_generator = new_generator(0)
"""Draws initial weights and dropout seeds wherever no generator is passed; see `manual_seed`."""


def manual_seed(*seeds: int) -> None:
    """Restart the default generator from `seeds`."""
    default_generator.bit_generator.state = new_generator(*seeds).bit_generator.state

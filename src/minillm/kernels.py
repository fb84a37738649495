"""Accelerators: which compiled libraries are there, and which provider may serve an op.

A library claims an op by exporting `<op>_forward` / `<op>_backward`. The switches of this file are
the run's, not an array's: the environment variables MINILLM_KERNELS (auto, off, require) and
MINILLM_GRAPHS (auto, off) at start, `use(...)`, `precision(...)` and `set_default_device(...)`
while running.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Literal

import numpy

from minillm import devices

Provider = Literal["auto", "reference"]
Precision = Literal["f32", "bf16"]

MODES = ("auto", "off", "require")
MOST_THREADS = 4096  # as in bindings_cpu.cpp


def _load(name: str, mode: str) -> ModuleType | None:
    if mode == "off":
        return None
    try:
        return importlib.import_module(f"minillm.{name}")
    except ModuleNotFoundError as error:
        if mode == "require" and name == "_cpu":
            raise ImportError(
                "MINILLM_KERNELS=require: the C++ extension minillm._cpu is not installed; "
                "install a C++17 compiler and reinstall, or unset MINILLM_KERNELS"
            ) from error
        return None


def _mode() -> str:
    mode = os.environ.get("MINILLM_KERNELS", "auto") or "auto"
    if mode not in MODES:
        raise ImportError(
            f"MINILLM_KERNELS: {mode!r} is not known, one of {', '.join(MODES)} needed"
        )
    return mode


def _graphs() -> bool:
    """Whether a GPU is given captured steps: MINILLM_GRAPHS, auto (wherever it can be) or off."""
    mode = os.environ.get("MINILLM_GRAPHS", "auto") or "auto"
    if mode not in ("auto", "off"):
        raise ImportError(f"MINILLM_GRAPHS: {mode!r} is not known, 'auto' or 'off' is needed")
    return mode == "auto"


graphs: bool = _graphs()
cpu: ModuleType | None = _load("_cpu", _mode())
cuda: ModuleType | None = _load("_cuda", _mode())
if cuda is not None:
    cuda.runtime.set_graphs(graphs)


def many_rows(*libraries: ModuleType | None) -> int:
    """Rows from which on kernels may give a row other bits, those of neighbours among them."""
    return min((lib.runtime.many_rows for lib in libraries if lib is not None), default=sys.maxsize)


MANY_ROWS: int = many_rows(cpu, cuda)

active_cpu: ModuleType | None = cpu
active_cuda: ModuleType | None = cuda
active_precision: Precision = "f32"
default_device = devices.CPU


def library(xp: ModuleType) -> ModuleType | None:
    """The library that may serve ops on arrays of `xp` now, or None for the reference."""
    return active_cpu if xp is numpy else active_cuda


def library_of(device: str) -> ModuleType | None:
    """The library that may serve ops on arrays of a device now, or None for the reference."""
    return active_cpu if devices.number_of(device) is None else active_cuda


def multiplies_blocks(device: str) -> bool:
    """Whether weights on a device are multiplied now as the blocks of a file.

    By kernels, but on a GPU in any case: its memory is scarce, and it opens blocks quickly.
    """
    on_gpu = devices.number_of(device) is not None
    return on_gpu or hasattr(library_of(device), "block_linear_forward")


def set_default_device(device: str) -> None:
    """Where models are loaded from now on: "cpu", "cuda" or "cuda:N".

    RuntimeError in one line with the cure for a GPU that cannot be used.
    """
    global default_device
    devices.require(device)
    default_device = device


def get_default_device() -> str:
    return default_device


@contextmanager
def use(provider: Provider) -> Iterator[None]:
    """Serve ops from "auto" (kernels where there are any) or the "reference" only."""
    if provider not in ("auto", "reference"):
        raise ValueError(f"use: {provider!r} is not a provider, 'auto' or 'reference' is needed")
    global active_cpu, active_cuda
    before = active_cpu, active_cuda
    active_cpu, active_cuda = (cpu, cuda) if provider == "auto" else (None, None)
    try:
        yield
    finally:
        active_cpu, active_cuda = before


@contextmanager
def precision(name: Precision, device: str | None = None) -> Iterator[None]:
    """Operands of matrix products in float32 ("f32") or rounded to bfloat16 ("bf16").

    Where the active library of `device`, the default one if none is given, offers no bfloat16
    products, "bf16" gives one warning and runs in float32.
    """
    if name not in ("f32", "bf16"):
        raise ValueError(f"precision: {name!r} is not known, 'f32' or 'bf16' is needed")
    before = active_precision
    _set_precision(name if name == "f32" or has_bf16(device) else "f32")
    if active_precision != name:
        warnings.warn(
            without_bf16(device),
            RuntimeWarning,
            stacklevel=3,
        )
    try:
        yield
    finally:
        _set_precision(before)


def without_bf16(device: str | None) -> str:
    """What is said where "bf16" cannot be had."""
    device = device or default_device
    where = "this machine" if device == devices.CPU else device
    return f"precision: no bfloat16 matrix product on {where}, running in float32"


def _set_precision(name: Precision) -> None:
    global active_precision
    active_precision = name
    for lib in (cpu, cuda):
        if lib is not None:
            lib.runtime.set_bf16(name == "bf16")


def has_bf16(device: str | None = None) -> bool:
    """Whether the active library of a device, by default the default one, has bfloat16 products."""
    lib = library_of(device or default_device)
    return lib is not None and bool(lib.runtime.has_bf16())


def set_threads(count: int) -> None:
    """Size of the extension's thread pool, 1 to 4,096. Results do not depend on it."""
    if count < 1:
        raise ValueError(f"threads: {count} asked for, at least 1 is needed")
    if count > MOST_THREADS:
        raise ValueError(f"threads: {count} asked for, at most {MOST_THREADS} are possible")
    if cpu is not None:
        cpu.runtime.set_threads(count)


def threads() -> int:
    """Threads of the extension's pool; 1 without the extension."""
    return 1 if cpu is None else cpu.runtime.threads()


class Arena:
    """Memory of a run (training, generating): what one step frees is there for the next.

    Inside `with arena.step():` NumPy's arrays of 64 KB and more, of this thread, lie in huge pages
    that the extension keeps (a data-memory handler, NEP 49). They may live on after the step. What
    a few steps have not used goes back to the system, and when the last Arena is gone, all that
    holds no array. Without the extension NumPy's memory is left as it is.
    """

    def __init__(self) -> None:
        self._run = None if cpu is None else cpu.runtime.Run()

    @contextmanager
    def step(self) -> Iterator[None]:
        """The block is a step, or part of one. Do not `yield` inside: the caller would be in it."""
        if self._run is None:
            yield
            return
        former = self._run.begin_step()
        try:
            yield
        finally:
            self._run.end_step(former)

"""The device whose kernels are under test: a GPU, or one that the host plays."""

import importlib.util
import os

import numpy as np
import pytest

import stand_in_cupy
from minillm import kernels, testing


def on_host(path: str) -> testing.Device:
    """The library _cuda_on_host in the file `path`; its arrays are views of NumPy's."""
    spec = importlib.util.spec_from_file_location("_cuda_on_host", path)
    assert spec is not None and spec.loader is not None
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    return testing.Device("cuda on host", library, stand_in_cupy.module(), wrapped)


def wrapped(array: np.ndarray) -> stand_in_cupy.ndarray:
    """As it lies in memory, but aligned: arrays of a GPU always are."""
    return stand_in_cupy.ndarray(array if array.flags.aligned else array.copy())


def find() -> testing.Device | None:
    path = os.environ.get("MINILLM_CUDA_ON_HOST")
    if path:
        return on_host(path)
    if kernels.cuda is None:
        return None
    try:
        import cupy
    except ImportError:
        return None
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        return None
    if os.environ.get("MINILLM_TEST_EXACT_MEMORY"):  # a pool would hide what lies beyond an array
        cupy.cuda.set_allocator(None)
    return testing.Device("cuda", kernels.cuda, cupy, cupy.asarray)


device = find()
library = None if device is None else device.lib
needs_device = pytest.mark.skipif(
    device is None, reason="no GPU, and MINILLM_CUDA_ON_HOST names no library that plays one"
)

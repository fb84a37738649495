"""Arrays that reach past 2^31 elements and take little memory, where the system has such."""

import ctypes
import math
import mmap
import os

import numpy as np
import pytest

PAST = 2**31 + 2**20  # elements
FAR = 2**34  # elements, so that a few of many rows reach past 2^31
PIECE = 8 << 20  # bytes that a repeated array holds again and again
OWN = 1 << 18  # last elements of a repeated array, which it holds but once
HUGE_PAGE = 2 << 20


def addresses(count):
    """A mapping of `count` bytes, which cost nothing until they are written; else a skip."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        pytest.skip("this system gives no addresses without memory")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        return mmap.mmap(-1, count, flags=flags)
    except OSError as error:
        pytest.skip(f"no addresses for {count / 1e9:.0f} GB here: {error}")


def laid(array, axis, memory, step):
    """`array` in `memory` (a buffer), `step` elements apart along `axis`, else contiguous."""
    front = np.moveaxis(array, axis, 0)
    inner = np.empty(front.shape[1:], array.dtype).strides
    view = np.ndarray(front.shape, array.dtype, memory, 0, (step * array.itemsize, *inner))
    view[...] = front
    return np.moveaxis(view, 0, axis)


def far(array, axis):
    """A copy whose last element along `axis` lies FAR elements from the first."""
    step = math.ceil(FAR / (array.shape[axis] - 1))
    return laid(array, axis, addresses((FAR + array.size + step) * array.itemsize), step)


def near(array, axis):
    """The same in a row, with gaps of three elements."""
    step = array.size // array.shape[axis] + 3
    return laid(array, axis, bytearray(step * array.shape[axis] * array.itemsize), step)


def repeated():
    """PAST + OWN float32; all but the last OWN are the same zeros, in 8 MB, again and again."""
    if not hasattr(os, "memfd_create"):
        pytest.skip("this system cannot map a file in memory at many addresses")
    body = math.ceil(PAST * 4 / PIECE)
    memory = addresses(HUGE_PAGE + body * PIECE + OWN * 4)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    skipped = -start % HUGE_PAGE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    file = os.memfd_create("repeated")
    try:
        os.truncate(file, PIECE)
        access, map_fixed = mmap.PROT_READ | mmap.PROT_WRITE, 0x10
        for place in range(body):
            at = start + skipped + place * PIECE
            if libc.mmap(at, PIECE, access, mmap.MAP_SHARED | map_fixed, file, 0) != at:
                pytest.skip(f"mmap: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(file)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.float32, body * PIECE // 4 + OWN, skipped)

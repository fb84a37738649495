"""Memory of a device: what is free, what is held, its bound, and what is told when it ends.

Of a GPU it is in two pools of this process: CuPy's for arrays, which keeps what they free, and
CUDA's own for what kernels of `_cuda` need besides ("scratch"). They share one bound; where one
finds no memory, both give back what they only keep, and it tries once more.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from minillm import devices, kernels
from minillm.quantities import size

_TOLD = re.compile(
    r"allocating ([\d,]+) bytes \(allocated so far: ([\d,]+) bytes(?:, limit set to: ([\d,]+))?"
)
_lent: dict[int, int] = {}  # by the number of a GPU, bytes of its bound that scratch holds


class Shortage(NamedTuple):
    """Bytes of a GPU: asked for, in use by arrays of this process, possible in all."""

    asked: int
    used: int
    most: int

    def __str__(self) -> str:
        return (
            f"{size(self.asked)} more asked for, {size(self.used)} are in use and "
            f"{size(self.most)} possible"
        )


def free(device: str) -> int | None:
    """Bytes that can still be taken; None where the system does not say."""
    if devices.number_of(device) is None:
        from minillm.machine import available_memory

        return available_memory()
    cupy, pool = _pool(device)
    scratch, kept = _scratch()
    used = pool.used_bytes() + scratch
    left = int(cupy.cuda.runtime.memGetInfo()[0]) + pool.total_bytes() + kept - used
    bound = _bound(pool, cupy.cuda.runtime.getDevice())
    return int(min(left, bound - used) if bound else left)


def limit(device: str, most: int) -> None:
    """Take at most so many bytes of a GPU from now on; 0: what there is."""
    number = devices.number_of(device)
    if number is not None:
        pool = _pool(device)[1]
        pool.set_limit(size=most)
        _lent[number] = 0
        _share(pool, number)
        _join()


def held(device: str) -> int | None:
    """Bytes of a GPU that this process has taken for arrays and kernels; None for the host."""
    number = devices.number_of(device)
    if number is None:
        return None
    pool = _pool(device)[1]
    _share(pool, number)
    return int(pool.total_bytes()) + _scratch()[1]


def release(device: str) -> None:
    """Give back what holds no array and no kernel uses."""
    number = devices.number_of(device)
    if number is not None:
        pool = _pool(device)[1]
        _give_back(pool)
        _share(pool, number)


def shortage(error: MemoryError) -> Shortage | None:
    """What is said of a GPU that has no more memory; None for an error of the host."""
    found = _TOLD.search(str(error))
    if found is None:
        return None
    asked, used, most = (int((text or "0").replace(",", "")) for text in found.groups())
    runtime = devices.imported().cuda.runtime
    return Shortage(asked, used, most or int(runtime.memGetInfo()[1]))


def _pool(device: str) -> tuple[ModuleType, Any]:
    """CuPy, with that GPU the current one, and its pool."""
    cupy = devices.use(devices.number_of(device) or 0)
    pool = cupy.get_default_memory_pool()
    if pool.get_limit():  # by CUPY_GPU_MEMORY_LIMIT, perhaps
        _lent.setdefault(cupy.cuda.runtime.getDevice(), 0)
    if cupy.cuda.get_allocator() == pool.malloc:  # and not another one of the program's
        cupy.cuda.set_allocator(_twice(cupy, pool))
        _join()
    return cupy, pool


def _scratch() -> tuple[int, int]:
    """Bytes of the current GPU that kernels use now, and that are held for them."""
    return (0, 0) if kernels.cuda is None else kernels.cuda.runtime.scratch_bytes()


def _bound(pool: Any, number: int) -> int:
    """Bytes that may be taken of a GPU; 0: what there is."""
    left = pool.get_limit()
    return left + _lent.get(number, 0) if left else 0


def _share(pool: Any, number: int, scratch: int | None = None) -> None:
    """Leave to CuPy's pool what scratch, or so many bytes for it, does not take of the bound."""
    bound = _bound(pool, number)
    if bound:
        _lent[number] = min(bound - 1, _scratch()[1] if scratch is None else scratch)
        pool.set_limit(size=bound - _lent[number])


def _give_back(pool: Any) -> None:
    pool.free_all_blocks()
    if kernels.cuda is not None:
        kernels.cuda.runtime.trim_scratch()


def _twice(cupy: ModuleType, pool: Any) -> Callable[[int], Any]:
    """CuPy's allocation of memory, tried again with what pools only keep."""

    def malloc(wanted: int) -> Any:
        try:
            return pool.malloc(wanted)
        except MemoryError:
            pass
        _give_back(pool)
        _share(pool, cupy.cuda.runtime.getDevice())
        return pool.malloc(wanted)

    return malloc


def _join() -> None:
    """Have the kernels ask for room."""
    if kernels.cuda is not None:
        kernels.cuda.runtime.ask_for_room(_make_room, bool(_lent))


def _make_room(wanted: int, refused: int) -> None:
    """For scratch of so many bytes on the current GPU, whose pool has to grow.

    MemoryError if the bound forbids it, or the GPU has `refused` twice.
    """
    cupy = devices.imported()
    pool, number = cupy.get_default_memory_pool(), cupy.cuda.runtime.getDevice()
    bound, (used, kept) = _bound(pool, number), _scratch()
    after = max(kept, used + wanted)
    too_much = bool(bound) and pool.total_bytes() + after > bound
    if refused == 1 or too_much:
        _give_back(pool)
        after = max(_scratch()[1], used + wanted)
        too_much = bool(bound) and pool.total_bytes() + after > bound
    if refused > 1 or too_much:
        told = f"allocating {wanted:,} bytes (allocated so far: {pool.used_bytes() + used:,} bytes"
        raise MemoryError(
            f"Out of memory {told}" + (f", limit set to: {bound:,} bytes)." if bound else ").")
        )
    _share(pool, number, after)

"""Memory of a device: what is free, what is held, its bound, and what is told when it ends.

CuPy keeps what arrays free in a pool of this process. `held` counts the pool: it is what the
process took of the GPU at most since `release`.
"""

from __future__ import annotations

import re
from types import ModuleType
from typing import NamedTuple

from minillm import devices
from minillm.quantities import size

_TOLD = re.compile(
    r"allocating ([\d,]+) bytes \(allocated so far: ([\d,]+) bytes(?:, limit set to: ([\d,]+))?"
)


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
    cupy, used = _pool(device)
    pool = cupy.get_default_memory_pool()
    left = int(cupy.cuda.runtime.memGetInfo()[0]) + pool.total_bytes() - used
    return min(left, pool.get_limit() - used) if pool.get_limit() else left


def limit(device: str, most: int) -> None:
    """Take at most so many bytes of a GPU from now on; 0: what there is."""
    if devices.number_of(device) is not None:
        _pool(device)[0].get_default_memory_pool().set_limit(size=most)


def held(device: str) -> int | None:
    """Bytes of a GPU that this process has taken for arrays; None for the host."""
    if devices.number_of(device) is None:
        return None
    return int(_pool(device)[0].get_default_memory_pool().total_bytes())


def release(device: str) -> None:
    """Give back what holds no array."""
    if devices.number_of(device) is not None:
        _pool(device)[0].get_default_memory_pool().free_all_blocks()


def shortage(error: MemoryError) -> Shortage | None:
    """What CuPy says of a GPU that has no more memory; None for an error of the host."""
    found = _TOLD.search(str(error))
    if found is None:
        return None
    asked, used, bound = (int((text or "0").replace(",", "")) for text in found.groups())
    cupy = devices.imported()
    return Shortage(asked, used, bound or int(cupy.cuda.runtime.memGetInfo()[1]))


def _pool(device: str) -> tuple[ModuleType, int]:
    """CuPy, with that GPU the current one, and the bytes of its arrays."""
    cupy = devices.use(devices.number_of(device) or 0)
    return cupy, int(cupy.get_default_memory_pool().used_bytes())

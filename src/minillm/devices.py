"""GPUs by number: what is there, why one cannot be used, and how much memory it has.

Devices are named as in PyTorch: "cpu", "cuda" (the first GPU) and "cuda:N". CuPy is imported when
the first GPU is asked for.
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from types import ModuleType
from typing import Any, NamedTuple

from minillm.quantities import counted, size

CPU = "cpu"
PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cupy")  # that share one folder
OLD_DRIVER = 35  # status of the CUDA runtime
PROBE = """
extern "C" __global__ void minillm_probe(const float* x, float* y) {
    y[threadIdx.x] = 2 * x[threadIdx.x] + 1;
}
"""
PROBED = 64  # numbers
_probed: set[int] = set()  # GPUs on which a kernel has run in this process


class Card(NamedTuple):
    """A GPU: its number, the maker's name, its compute capability, bytes in all and free."""

    number: int
    name: str
    capability: str
    total: int
    free: int

    def __str__(self) -> str:
        return f"{self.name}, {size(self.free)} of {size(self.total)} free"


def number_of(device: str) -> int | None:
    """The number of the GPU that "cuda" or "cuda:N" names; None for "cpu"."""
    kind, colon, number = device.partition(":")
    if device == CPU:
        return None
    if kind == "cuda" and (not colon or (number.isascii() and number.isdecimal())):
        return int(number or 0)
    raise ValueError(f"device: {device!r} is not known, 'cpu' or 'cuda' is needed, or 'cuda:N'")


def require(device: str) -> int | None:
    """`number_of`, for a device on which kernels run; else RuntimeError in one line with the cure.

    The kernel that is tried takes some hundredths of a second, and the first time that CuPy
    compiles it, longer.
    """
    number = number_of(device)
    if number is not None:
        use(number)
        if number not in _probed:
            probe(number)
            _probed.add(number)
    return number


def use(number: int) -> ModuleType:
    """CuPy, with the GPU of this number as the current one of this thread.

    RuntimeError in one line with the cure where that cannot be.
    """
    cupy = imported(f"cuda:{number}" if number else "cuda")
    there = count(cupy)
    if number >= there:
        known = ", ".join(f"cuda:{n}" for n in range(there))
        raise RuntimeError(
            f"device: 'cuda:{number}' is not there, this machine has {counted(there, 'GPU')}, "
            f"{known} can be used"
        )
    try:
        cupy.cuda.Device(number).use()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"device: 'cuda:{number}' cannot be used ({_words(error)}), a GPU that is free and "
            "sound is needed; nvidia-smi tells"
        ) from error
    return cupy


def probe(number: int) -> float:
    """Seconds that it takes to compile one kernel and run it on the GPU of this number.

    RuntimeError in one line with the cure where that cannot be, or gives wrong numbers.
    """
    cupy = use(number)
    begin = time.perf_counter()
    try:
        x = cupy.arange(PROBED, dtype=cupy.float32)
        y = cupy.zeros(PROBED, cupy.float32)
        cupy.RawKernel(PROBE, "minillm_probe")((1,), (PROBED,), (x, y))
        right = bool((y == 2 * x + 1).all())
    except MemoryError:  # of a GPU that is full, not broken
        raise
    except Exception as error:  # of CUDA, its compiler, its libraries, or the finder of these
        major = int(cupy.cuda.runtime.runtimeGetVersion()) // 1000
        raise RuntimeError(
            f"device: no kernel can be compiled and run on 'cuda:{number}' ({_words(error)}), "
            f"compiler and libraries of CUDA {major} are needed; install its toolkit, or: pip "
            f"install 'cupy-cuda{major}x[ctk]'"
        ) from error
    if not right:
        raise RuntimeError(
            f"device: 'cuda:{number}' computes wrong numbers, a sound GPU is needed; nvidia-smi -q "
            "tells of errors in its memory"
        )
    return time.perf_counter() - begin


def count(cupy: ModuleType) -> int:
    """How many GPUs can be used, 1 or more; RuntimeError in one line if there are none."""
    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"device: {_no_device(cupy, error)}") from error


def _no_device(cupy: ModuleType, error: Any) -> str:
    """Why CuPy sees no GPU, and the cure."""
    driver = int(cupy.cuda.runtime.driverGetVersion())
    needed = cuda(cupy.cuda.runtime.runtimeGetVersion())
    major = needed.partition(".")[0]
    if not driver:
        return (
            f"CuPy is installed for CUDA {needed}, but no driver of NVIDIA; a GPU and its driver "
            "are needed"
        )
    if getattr(error, "status", None) == OLD_DRIVER:
        extra = extra_for(driver)
        other = "" if extra is None else f", or the extra {extra},"
        return (
            f"the driver is for CUDA {cuda(driver)}, CuPy for CUDA {needed}; a driver for CUDA "
            f"{major}{other} is needed"
        )
    return (
        f"the driver for CUDA {cuda(driver)} finds no GPU ({_words(error)}), one is needed; "
        "CUDA_VISIBLE_DEVICES may hide it"
    )


def imported(device: str = "cuda") -> ModuleType:
    """The module cupy, for a device; RuntimeError in one line with the cure if there is none."""
    found = sys.modules.get("cupy")
    if found is not None:
        return found
    twice = [name for name in PACKAGES if _installed(name)]
    if len(twice) > 1:
        raise RuntimeError(
            f"device: {' and '.join(twice)} are installed into one folder, one alone is needed; "
            f"pip uninstall {' '.join(twice)}, then install {_extra()}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many lines, about what is told here
            return importlib.import_module("cupy")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (None, "cupy"):
            raise RuntimeError(
                f"device: {device!r} needs CuPy, which is not installed; install {_extra()}"
            ) from error
        raise RuntimeError(_unfit(error)) from error


def _unfit(error: ImportError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =")]
    what = lines[-1] if lines else type(error).__name__
    return f"device: CuPy cannot be imported ({what}), a whole one is needed; install {_extra()}"


def _installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _extra() -> str:
    """The extra to install, in words: that of the driver, where there is one."""
    from minillm.machine import cuda_driver

    driver = cuda_driver()
    extra = None if driver is None else extra_for(driver)
    if driver is None:
        return "the extra cuda12 or cuda13 that matches your driver (none of NVIDIA was found)"
    if extra is None:
        return f"the extra cuda12 and a driver for it (that here is for CUDA {cuda(driver)})"
    return f"the extra {extra} (the driver is for CUDA {cuda(driver)})"


def extra_for(driver: int) -> str | None:
    """The newest extra whose CUDA a driver for CUDA `driver` runs."""
    return "cuda13" if driver >= 13000 else "cuda12" if driver >= 12000 else None


def cuda(number: int) -> str:
    """12040 as 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())


def cards() -> list[Card]:
    """All GPUs that can be used, at least one; RuntimeError as for `use`."""
    cupy = imported()
    return [_card(cupy, number) for number in range(count(cupy))]


def synchronize(device: str) -> None:
    """Wait until a device has done what it was given."""
    number = number_of(device)
    if number is not None:
        use(number).cuda.Device(number).synchronize()


def card(device: str) -> Card:
    """The GPU that `device` names; RuntimeError as for `use`."""
    number = number_of(device)
    if number is None:
        raise ValueError(f"device: {device!r} is no GPU, 'cuda' or 'cuda:N' is needed")
    return _card(use(number), number)


def _card(cupy: ModuleType, number: int) -> Card:
    facts = cupy.cuda.runtime.getDeviceProperties(number)
    with cupy.cuda.Device(number):
        free, total = cupy.cuda.runtime.memGetInfo()
    name = facts["name"]
    shown = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    return Card(number, shown, f"{facts['major']}.{facts['minor']}", int(total), int(free))

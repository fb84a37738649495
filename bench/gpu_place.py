"""Where the parts of the GPU's benchmark run: on a GPU, or on the host that plays one."""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from minillm import devices, kernels

ROUNDS = 5  # of each contender, in turns
LEAST_SECONDS = 0.15  # of a round
ON_HOST = "MINILLM_CUDA_ON_HOST"  # the library that plays a GPU, where there is one


@dataclass
class Row:
    """A figure: what was measured, how it compares, what the comparison must reach."""

    what: str
    unit: str
    ours: float
    rivals: dict[str, float] = field(default_factory=dict)
    measure: str = ""  # what `got` is
    got: float | None = None
    needed: float | None = None
    at_most: bool = False  # `got` must not be above what is needed

    @property
    def passed(self) -> bool | None:
        """None where nothing is required."""
        if self.needed is None:
            return None
        if self.got is None:
            return False
        return self.got <= self.needed if self.at_most else self.got >= self.needed

    def content(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


@dataclass
class Place:
    """CuPy, the library for it, and what PyTorch calls the device; small sizes in a rehearsal."""

    xp: Any
    library: ModuleType | None
    torch_device: str
    rehearsal: bool
    wait: Callable[[], None]
    free_bytes: Callable[[], int]

    def size(self, real: int, small: int) -> int:
        return small if self.rehearsal else real

    def bf16(self) -> AbstractContextManager[None]:
        """Products of bfloat16 where the library has them; a rehearsal may have none."""
        return kernels.precision("bf16" if kernels.has_bf16("cuda") else "f32", "cuda")

    def turns(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Median milliseconds of a call of each, A B A B ...; the device is waited for once a
        round, so that what it does while the host goes on is counted, and the host's delays."""
        number = {name: self._calls_in_a_round(call) for name, call in calls.items()}
        found: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(1 if self.rehearsal else ROUNDS):
            for name, call in calls.items():
                found[name].append(self._round(call, number[name]) / number[name])
        return {name: statistics.median(times) * 1e3 for name, times in found.items()}

    def _calls_in_a_round(self, call: Callable[[], object]) -> int:
        for _ in range(0 if self.rehearsal else 2):
            call()
        once = self._round(call, 1)
        return 1 if self.rehearsal else max(1, min(1000, round(LEAST_SECONDS / once)))

    def _round(self, call: Callable[[], object], number: int) -> float:
        self.wait()
        begin = time.perf_counter()
        for _ in range(number):
            call()
        self.wait()
        return time.perf_counter() - begin


def library_on_host() -> ModuleType | None:
    path = os.environ.get(ON_HOST)
    if not path:
        return None
    spec = importlib.util.spec_from_file_location("_cuda_on_host", path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{ON_HOST}: {path} is no extension module")
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)
    return library


@contextmanager
def place(rehearsal: bool) -> Iterator[Place]:
    """The first GPU; in a rehearsal NumPy's memory behind the stand-in that the tests use."""
    if not rehearsal:
        cupy = devices.use(0)
        yield Place(
            cupy,
            kernels.cuda,
            "cuda",
            False,
            lambda: cupy.cuda.Device().synchronize(),
            lambda: cupy.cuda.runtime.memGetInfo()[0],
        )
        return
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    stand_in: Any = importlib.import_module("stand_in_cupy")
    with stand_in.installed(library_on_host()):
        yield Place(sys.modules["cupy"], kernels.cuda, "cpu", True, lambda: None, lambda: 0)

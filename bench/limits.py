"""What the machine can do at best, measured now, and what a call must do at least."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from minillm import kernels
from minillm.op import Op

SETS = tuple(1 << power for power in range(20, 29))  # bytes, 1 MiB to 256 MiB
SECONDS = 0.02  # of each measurement
READS_MOSTLY = 8  # times as much read as written, and the limit is that of reading


@dataclass(frozen=True)
class Work:
    """Arithmetic of the matrix products, and bytes that must be read and written once."""

    flop: float = 0.0
    read: float = 0.0
    written: float = 0.0

    @property
    def moved(self) -> float:
        return self.read + self.written


@dataclass(frozen=True)
class Limits:
    """GFLOP/s of float32 and bfloat16 (0: none), GB/s of reading and copying by working set."""

    f32: float
    bf16: float
    read: dict[int, float]
    copy: dict[int, float]

    def facts(self) -> dict[str, str]:
        """One line for each limit."""
        curves = {"read": self.read, "copy": self.copy}
        lines = {
            f"{name} GB/s": "  ".join(f"{s >> 20} MB {rate:.0f}" for s, rate in curve.items())
            for name, curve in curves.items()
        }
        peaks = {"f32": self.f32, "bf16": self.bf16}
        return {f"{n} peak": f"{rate:.0f} GFLOP/s" for n, rate in peaks.items() if rate} | lines

    def least(self, work: Work, precision: str) -> tuple[float, str]:
        """Milliseconds that `work` takes at best, and the limit that says so."""
        peak = "bf16" if precision == "bf16" and self.bf16 else "f32"
        arithmetic = work.flop / getattr(self, peak) / 1e6
        reading = work.read >= READS_MOSTLY * work.written
        curve = self.read if reading else self.copy
        working_set = min(curve, key=lambda size: abs(math.log((work.moved or 1) / size)))
        memory = work.moved / curve[working_set] / 1e6
        if arithmetic > memory:
            return arithmetic, peak
        return memory, f"{'read' if reading else 'copy'} {working_set >> 20} MB"


def measure(threads: int) -> Limits | None:
    """The limits on `threads` threads, in about a second; None without the extension."""
    if kernels.cpu is None:
        return None
    runtime = kernels.cpu.runtime
    kernels.set_threads(threads)
    return Limits(
        runtime.peak_f32(),
        runtime.peak_bf16(),
        {size: runtime.peak_read(size, SECONDS) for size in SETS},
        {size: runtime.peak_copy(size, SECONDS) for size in SETS},
    )


def rates(
    works: Sequence[Work], ms: float, precision: str, limits: Limits | None
) -> dict[str, float | str]:
    """Columns of a row for works done one after the other in `ms`.

    GFLOP/s where matrices are multiplied, GB/s, the limit that most of the least time comes from,
    and the least time as a share of `ms`.
    """
    flop, moved = sum(work.flop for work in works), sum(work.moved for work in works)
    found: dict[str, float | str] = {"gb_per_s": moved / ms / 1e6}
    if flop:
        found["gflops"] = flop / ms / 1e6
    if limits is None:
        return found
    least = [limits.least(work, precision) for work in works]
    return found | {"limit": max(least)[1], "share": sum(time for time, _ in least) / ms}


def attended(q_rows: int, k_rows: int, causal: bool, offset: int, window: int | None = None) -> int:
    """Pairs of a query and a key that it may see."""
    if not causal:
        return q_rows * k_rows
    ends = range(offset + 1, offset + 1 + q_rows)
    return sum(max(0, min(k_rows, end) - max(0, end - (window or end))) for end in ends)


def matmul_flop(a: Any, b: Any) -> tuple[float, float]:
    batch = math.prod(numpy.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    forward = 2.0 * batch * a.shape[-2] * a.shape[-1] * b.shape[-1]
    return forward, 2 * forward


def linear_flop(x: Any, weight: Any, *rest: Any) -> tuple[float, float]:
    forward = 2.0 * x.size * weight.shape[0]
    return forward, 2 * forward


def feed_forward_flop(
    x: Any, weight1: Any, bias1: Any, weight2: Any, *rest: Any, activation: str
) -> tuple[float, float]:
    forward = 2.0 * x.size // x.shape[-1] * (weight1.size + weight2.size)
    return forward, 2 * forward


def linear_cross_entropy_flop(
    x: Any, weight: Any, target: Any, **params: Any
) -> tuple[float, float]:
    forward = 2.0 * x.size * weight.shape[0]
    return forward, 2 * forward  # dx, dweight; not the logits, which may have been kept


def attention_flop(
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    *,
    causal: bool,
    offset: int,
    scale: Any,
    window: int | None = None,
) -> tuple[float, float]:
    pairs = q.shape[0] * q.shape[1] * attended(q.shape[2], k.shape[2], causal, offset, window)
    width, value_width = q.shape[3], v.shape[3]
    return 2.0 * pairs * (width + value_width), 2.0 * pairs * (3 * width + 2 * value_width)


def packed_attention_flop(
    qkv: Any, *, heads: int, kv_heads: int | None = None, causal: bool = True, scale: Any = None
) -> tuple[float, float]:
    batch, length, width = qkv.shape
    pairs = batch * heads * attended(length, length, causal, 0)
    head_width = width // (heads + 2 * (kv_heads or heads))
    return 4.0 * pairs * head_width, 10.0 * pairs * head_width


FLOP: dict[str, Callable[..., tuple[float, float]]] = {
    "matmul": matmul_flop,
    "linear": linear_flop,
    "feed_forward": feed_forward_flop,
    "packed_attention": packed_attention_flop,
    "linear_cross_entropy": linear_cross_entropy_flop,
    "scaled_dot_product_attention": attention_flop,
}
"""Forward and backward flop of the ops that multiply matrices; of all others only bytes count."""


def distinct(arrays: Sequence[Any], known: Sequence[Any] = ()) -> list[numpy.ndarray]:
    """The arrays among `arrays` that share no memory with each other or with `known`."""
    found: list[numpy.ndarray] = []
    for array in arrays:
        if isinstance(array, numpy.generic):
            array = numpy.asarray(array)
        if isinstance(array, numpy.ndarray) and not any(
            numpy.may_share_memory(array, other) for other in (*known, *found)
        ):
            found.append(array)
    return found


def size_of(arrays: Sequence[numpy.ndarray]) -> float:
    return float(sum(array.nbytes for array in arrays))


def work_of(
    op: Op, arrays: Sequence[Any], params: dict[str, Any], grad: Any
) -> dict[str, list[Work]]:
    """What forward and backward must do for these arguments; runs each of them once."""
    flop = FLOP[op.name](*arrays, **params) if op.name in FLOP else (0.0, 0.0)
    inputs = distinct(arrays)
    if op.mutates:
        changed = [arrays[place] for place in op.mutated(len(arrays))]
        return {"forward": [Work(0.0, size_of(inputs), size_of(changed))]}
    out, saved = op.compute(*arrays, **params)
    written = size_of(distinct([out], inputs))
    looked_up = op.name == "embedding"  # reads the rows that it returns, not the whole table
    read = size_of(inputs[1:]) + written if looked_up else size_of(inputs)
    works = {"forward": [Work(flop[0], read if written else 0.0, written)]}
    if op.backward is not None:
        needed = distinct([grad, *saved])
        gradients = distinct(op.run_backward(grad, saved, params), needed)
        read = size_of(needed) if gradients else 0.0
        works["backward"] = [Work(flop[1], read, size_of(gradients))]
    return works

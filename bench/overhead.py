"""What a call of an op costs beyond NumPy's own, and whether training keeps its memory flat."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import numpy

from bench import report
from bench.models import Size, Training, serving
from bench.turns import workers
from minillm import Tensor, no_grad, ops

CALLS = 200  # of each kind in a round
TINY = Size(layers=2, heads=2, width=32, context=32, batch=4, vocabulary=65)
EARLY, LATE = 10, 1000  # steps
COLUMNS = "mode provider ns spread rss_mb_step_10 rss_mb_step_1000"


def nanoseconds(call: Callable[..., object], *arguments: object) -> float:
    """Mean time of one call over CALLS of them."""
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        call(*arguments)
    return (time.perf_counter_ns() - start) / CALLS


def dispatch(log: report.Report, provider: str, threads: int, rounds: int) -> None:
    """ops.add on arrays of 8 elements, with and without the tape, minus numpy.add."""
    arrays = numpy.ones((2, 8), numpy.float32)
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    with serving(provider, "f32", threads):
        for mode, context in (("no_grad", no_grad()), ("recorded", nullcontext())):
            with context:
                costs = [
                    nanoseconds(ops.add, *tensors) - nanoseconds(numpy.add, *arrays)
                    for _ in range(rounds)
                ]
            low, ns, high = statistics.quantiles(costs, n=4)
            row = {"mode": mode, "provider": provider, "threads": threads}
            log.add(row | {"ns": ns, "spread": (high - low) / ns})


def flatness(log: report.Report, provider: str, threads: int) -> None:
    """Resident memory early and late in a training run; equal if nothing leaks."""
    with workers({provider: (Training, TINY, provider, "f32", threads)}) as running:
        seen = {}
        for step in range(1, LATE + 1):
            running[provider]("step")
            if step in (EARLY, LATE):
                seen[step] = running[provider]("memory").rss_mb
    log.add(
        {"mode": "training", "provider": provider, "threads": threads}
        | {f"rss_mb_step_{step}": mb for step, mb in seen.items() if mb is not None}
    )


def run(options: argparse.Namespace) -> int:
    log = report.Report(options, COLUMNS)
    for provider in options.provider:
        dispatch(log, provider, options.threads, options.rounds)
        flatness(log, provider, options.threads)
    log.finish()
    return 0

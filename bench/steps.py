"""Time training steps of whole models, after checking that all agree."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bench import report
from bench.environment import KEEP_MEMORY
from bench.limits import Work, rates
from bench.limits import measure as measure_limits
from bench.models import SIZES, Size, Training, Truth
from bench.turns import Worker, alternate, figures, workers
from minillm import testing

TURN = 0.5  # seconds
COLUMNS = (
    "size precision provider ms spread tokens_per_s gflops gb_per_s limit share peak_rss_mb "
    "ratio_memory ratio_reference ratio_torch"
)
AT_BEST = "PyTorch at its best: memory kept by its allocator; exact GELU on both sides"


def contenders(size: Size, options: argparse.Namespace) -> dict[str, tuple[Any, ...]]:
    """Name of each contender: what makes it, and from what."""
    found: dict[str, tuple[Any, ...]] = {
        name: (Training, size, name, options.precision, options.threads)
        for name in options.provider
    }
    if options.against == "torch":
        from bench.peer_torch import TorchTraining

        for precision in dict.fromkeys((options.precision, "f32")):  # a higher one may be faster
            suffix = "" if precision == options.precision else f"-{precision}"
            found[f"torch{suffix}"] = TorchTraining, size, precision, options.threads
            if options.compile:
                found[f"torch-compile{suffix}"] = (
                    TorchTraining,
                    size,
                    precision,
                    options.threads,
                    True,
                )
    return found


def work_of(size: Size) -> Work:
    """What a step must do: arithmetic, and at least each weight read once."""
    return Work(size.step_flop, 4.0 * size.parameters)


def disagreements(size: Size, precision: str, running: dict[str, Worker]) -> list[str]:
    """Contenders whose losses are further from float64's than rounding explains."""
    with workers({"float64": (Truth, size)}) as truth:
        exact, tolerated = truth["float64"]("losses", precision)
    found = []
    for name, worker in running.items():
        error = testing.distance(worker("losses"), exact)
        if error > tolerated:
            found.append(f"{name}: loss off by {error:.3g}, {tolerated:.3g} allowed")
    return found


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """The extension against the fastest PyTorch of `rows`, in one line; empty without either."""
    ours = next((row for row in rows if row["provider"] == "cpu"), None)
    theirs = [row for row in rows if row["provider"].startswith("torch")]
    if ours is None or not theirs:
        return ""
    best = min(theirs, key=lambda row: row["ms"])
    kind = best["provider"].removeprefix("torch-").replace("torch", "eager")
    line = f"{ours['size']} {ours['precision']}: {ours['ratio_torch']:.2f} x the best PyTorch"
    line += f" ({kind}), spread {ours['spread']:.0%} and {best['spread']:.0%}"
    return line + (f", memory {ours['ratio_memory']:.2f} x" if "ratio_memory" in ours else "")


def with_memory(rows: Sequence[dict[str, Any]]) -> None:
    """Add to each row its peak of memory as a share of the fastest PyTorch's."""
    theirs = [row for row in rows if row["provider"].startswith("torch")]
    peak = min(theirs, key=lambda row: row["ms"]).get("peak_rss_mb") if theirs else None
    for row in rows:
        if peak and "peak_rss_mb" in row:
            row["ratio_memory"] = row["peak_rss_mb"] / peak


def measure(
    size_name: str, best: bool, options: argparse.Namespace, log: report.Report
) -> tuple[list[str], str]:
    """Add the rows of one model size: what is wrong (then no row), and the verdict."""
    size = replace(SIZES[size_name], activation="gelu") if best else SIZES[size_name]
    makes = contenders(size, options)
    kept = {name: KEEP_MEMORY for name in makes if best and name.startswith("torch")}
    with workers(makes, kept) as running:
        wrong = disagreements(size, options.precision, running)
        if wrong:
            return wrong, ""
        for worker in running.values():
            worker("begin")  # torch.compile needs more memory while it compiles
        steps_only = [worker("reset_peak") for worker in running.values()]
        if not all(steps_only):
            log.machine["peak"] = "of the whole process, set-up included"
        turns = {name: partial(worker, "turn", TURN) for name, worker in running.items()}
        medians = alternate(turns, options.rounds)
        rows = []
        for name, worker in running.items():
            row: dict[str, Any] = {"size": size_name, "precision": worker("precision")}
            row |= {"provider": name, "threads": options.threads} | figures(medians, name)
            row |= {"tokens_per_s": size.tokens / row["ms"] * 1e3, "activation": size.activation}
            works = [work_of(size)]
            row |= rates(works, row["ms"], row["precision"], log.limits)
            peak = worker("memory").peak_mb
            rows.append(row if peak is None else row | {"peak_rss_mb": peak})
    with_memory(rows)
    for row in rows:
        log.add(row)
    return [], verdict(rows)


def run(options: argparse.Namespace) -> int:
    log = report.Report(options, COLUMNS, measure_limits(options.threads))
    wrong, verdicts = [], []
    for best in (False, True) if options.best else (False,):
        if best:
            log.heading(AT_BEST)
            options.provider = [name for name in options.provider if name == "cpu"]
        for size_name in options.size:
            found, line = measure(size_name, best, options, log)
            wrong += [f"{size_name} {fault}" for fault in found]
            verdicts += [f"{line}{', at its best' * best}"] if line else []
    for line in wrong:
        print(f"WRONG, size not timed: {line}", file=sys.stderr)
    if verdicts:
        print("", *verdicts, sep="\n")
    log.finish()
    return 1 if wrong else 0

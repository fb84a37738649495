"""Time training steps or decoded tokens of whole models, after checking that all agree."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from bench import report
from bench.models import SIZES, Decoding, Size, Training, Truth
from bench.turns import Worker, alternate, figures, workers
from minillm import testing

TURN = 0.5  # seconds
COLUMNS = "size precision provider ms spread tokens_per_s peak_rss_mb ratio_reference ratio_torch"


def contenders(size: Size, options: argparse.Namespace) -> dict[str, tuple[Any, ...]]:
    """Name of each contender: what makes it, and from what."""
    ours = Training if options.command == "train" else Decoding
    setting = options.precision, options.threads
    found: dict[str, tuple[Any, ...]] = {
        name: (ours, size, name, *setting) for name in options.provider
    }
    if options.against == "torch":
        from bench import peer_torch

        theirs = getattr(peer_torch, f"Torch{ours.__name__}")
        found["torch"] = theirs, size, *setting
        if options.compile:
            found["torch-compile"] = theirs, size, *setting, True
    return found


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


def different_tokens(running: dict[str, Worker]) -> list[str]:
    """Contenders that do not generate the tokens of the first."""
    first, *others = running
    right = running[first]("tokens")
    found = []
    for name in others:
        tokens = running[name]("tokens")
        if tokens != right:
            place = next(i for i, (a, b) in enumerate(zip(tokens, right)) if a != b)
            found.append(f"{name}: token {place} is {tokens[place]}, {first} has {right[place]}")
    return found


def measure(size_name: str, options: argparse.Namespace, log: report.Report) -> list[str]:
    """Add the rows of one model size, or nothing and return what is wrong."""
    size = SIZES[size_name]
    with workers(contenders(size, options)) as running:
        wrong = disagreements(size, options.precision, running)
        if options.command == "generate":
            wrong += different_tokens(running)
        if wrong:
            return wrong
        steps_only = [worker("reset_peak") for worker in running.values()]
        if not all(steps_only):
            log.machine["peak"] = "of the whole process, set-up included"
        turns = {name: partial(worker, "turn", TURN) for name, worker in running.items()}
        medians = alternate(turns, options.rounds)
        tokens = size.tokens if options.command == "train" else 1
        for name, worker in running.items():
            row: dict[str, Any] = {"size": size_name, "precision": worker("precision")}
            row |= {"provider": name, "threads": options.threads} | figures(medians, name)
            row["tokens_per_s"] = tokens / row["ms"] * 1e3
            peak = worker("memory").peak_mb
            log.add(row if peak is None else row | {"peak_rss_mb": peak})
    return []


def run(options: argparse.Namespace) -> int:
    log = report.Report(options, COLUMNS)
    wrong = []
    for size_name in options.size:
        wrong += [f"{size_name} {line}" for line in measure(size_name, options, log)]
    for line in wrong:
        print(f"WRONG, size not timed: {line}", file=sys.stderr)
    log.finish()
    return 1 if wrong else 0

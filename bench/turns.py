"""Contenders that take turns, A B C A B C ..., and the figures that come of it.

Timing in turns lets a slow stretch of the machine fall on every contender, and ratios are taken
within a round before their median is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from minillm.machine import Memory, memory

Medians = dict[str, list[float]]  # contender: ms of each round
CLEAR_REFS, RESET_PEAK = "/proc/self/clear_refs", "5"  # proc(5)


class Contender:
    """Something that does one step again and again. `most`: steps in a turn, None without limit."""

    most: int | None = None

    def begin(self) -> None:
        """What comes before the timed steps of a turn; caches and thread pools warm up on it."""
        self.step()

    def step(self) -> object:
        raise NotImplementedError

    def turn(self, seconds: float) -> float:
        """Median milliseconds of a step, over `seconds` and at least one step."""
        self.begin()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or (time.perf_counter() < end and len(times) != self.most):
            start = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3

    def reset_peak(self) -> bool:
        """Let the peak of memory begin here, to leave out set-up; whether the system could."""
        try:
            with open(CLEAR_REFS, "w", encoding="ascii") as file:
                file.write(RESET_PEAK)
        except OSError:
            return False
        return True

    def memory(self) -> Memory:
        """Resident memory now and at its peak."""
        return memory()


class Worker:
    """A contender alone in a process of its own, so that its peak of memory is its own.

    worker("turn", 0.5) calls that method there. RuntimeError if it raises or the process dies.
    `changes` are made to its environment.
    """

    def __init__(
        self,
        name: str,
        make: Callable[..., Any],
        *arguments: Any,
        changes: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._line, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, make, arguments), daemon=True)
        with environment_of(changes or {}):
            self._process.start()
        far_end.close()

    def __call__(self, method: str, *arguments: Any) -> Any:
        try:
            self._line.send((method, arguments))
            worked, answer = self._line.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise RuntimeError(
                f"{self.name}: its process ended with exit code {self._process.exitcode}"
            ) from error
        if not worked:
            raise RuntimeError(f"{self.name}: {answer}")
        return answer

    def close(self) -> None:
        self._process.terminate()
        self._process.join()
        self._line.close()


def _serve(line: Any, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this
    contender = None
    while True:
        try:
            method, given = line.recv()
        except EOFError:  # the parent is gone
            return
        try:
            contender = make(*arguments) if contender is None else contender
            line.send((True, getattr(contender, method)(*given)))
        except Exception as error:
            line.send((False, f"{type(error).__name__}: {error}"))


@contextmanager
def environment_of(changes: Mapping[str, str]) -> Iterator[None]:
    """Processes started in the block find `changes` in their environment."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def workers(
    makes: Mapping[str, tuple[Any, ...]], changes: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[dict[str, Worker]]:
    """A Worker for each name, made of (make, *arguments); all are closed in the end.

    `changes`: by name, to the environment of a worker.
    """
    started: dict[str, Worker] = {}
    try:
        for name, (make, *arguments) in makes.items():
            change = (changes or {}).get(name)
            started[name] = Worker(name, make, *arguments, changes=change)
        yield started
    finally:
        for worker in started.values():
            worker.close()


def alternate(turns: Mapping[str, Callable[[], float]], rounds: int) -> Medians:
    """What every contender's turn gives in each of `rounds` rounds, after one that is not kept."""
    medians: Medians = {name: [] for name in turns}
    for kept in range(rounds + 1):
        for name, turn in turns.items():
            ms = turn()
            if kept:
                medians[name].append(ms)
    return medians


def best_of(medians: Medians, kind: str) -> str | None:
    """The fastest contender whose name is `kind` or begins with it and a dash; None without one."""
    names = [name for name in medians if name == kind or name.startswith(f"{kind}-")]
    return min(names, key=lambda name: statistics.median(medians[name]), default=None)


def figures(medians: Medians, name: str) -> dict[str, float]:
    """ms, spread, and how many times as fast as the reference and the best PyTorch `name` is."""
    own = medians[name]
    row = {"ms": statistics.median(own), "spread": (max(own) - min(own)) / statistics.median(own)}
    for kind in ("reference", "torch"):
        rival = best_of(medians, kind)
        if rival is not None:
            row[f"ratio_{kind}"] = statistics.median(b / a for a, b in zip(own, medians[rival]))
    return row

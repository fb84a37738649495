"""Time ops, forward and backward: all of the registry at the shapes of a model, or fixed cases."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy

from bench import cases, report
from bench.limits import Limits, rates, work_of
from bench.limits import measure as measure_limits
from bench.models import SIZES, Size, serving
from bench.turns import Contender, alternate, figures
from minillm import kernels, testing
from minillm.arrays import new_generator
from minillm.op import Op
from minillm.ops import registry

TURN = 0.05  # seconds
COLUMNS = (
    "op pass size precision provider ms spread gflops gb_per_s limit share ratio_reference "
    "ratio_torch shapes"
)
OF_CASES = COLUMNS.replace("op ", "case ").replace("size ", "").replace(" shapes", "")
LARGEST = 1 << 26  # elements of a case; beyond it every axis is halved

Calls = dict[str, Callable[[], Any]]  # pass: what is timed


class BenchDraw(testing.Draw):
    """Draws the shapes that a model of one size has in training, instead of odd ones."""

    def __init__(self, size: Size, divisor: int = 1) -> None:
        super().__init__(seed=0)
        lengths = {
            "B": size.batch,
            "T": size.context,
            "C": size.width,
            "H": size.heads,
            "D": size.width // size.heads,
            "V": size.vocabulary,
            "N": 4 * size.width,
        }
        self.lengths = {name: max(1, length // divisor) for name, length in lengths.items()}

    def size(self, name: str, low: int = 0) -> int:
        return max(low, self.lengths[name])

    def shape(self, dims: int | None = None, low: int = 0) -> tuple[int, ...]:
        return tuple(self.size(name, low) for name in ("B", "T", "C")[:dims])

    def choice(self, options: Sequence[Any]) -> Any:
        """The usual one: most axes and heads, nothing broadcast, the model's own variants."""
        if all(isinstance(option, tuple) for option in options):
            return max(options, key=len)
        for option, following in itertools.pairwise(options):
            if option is following:
                return option  # a sampler repeats what is usual
        if isinstance(options, range):
            return -1 if -1 in options else options[0]
        if all(isinstance(option, int) for option in options):
            return max(options)
        return next(option for option in options if not isinstance(option, str) or option != "none")


def case(op: Op, size: Size) -> tuple[list[Any], dict[str, Any]]:
    """float32 inputs and parameters of `op`, from its own sampler."""
    divisor = 1
    while True:
        arrays, params = op.sample(BenchDraw(size, divisor))
        if sum(numpy.size(array) for array in arrays) <= LARGEST:
            return testing.cast(arrays, "float32"), params
        divisor *= 2


class Timed(Contender):
    """One pass of an op by one provider, in an arena as in a step of training."""

    def __init__(self, call: Callable[[], Any], within: Callable[[], AbstractContextManager[Any]]):
        self.step = call  # type: ignore[method-assign]
        self.within = within
        self.arena = kernels.Arena()

    def turn(self, seconds: float) -> float:
        with self.within(), self.arena.step():
            return super().turn(seconds)


def calls_of(
    provider: testing.Provider, arrays: list[Any], params: dict[str, Any], grad: Any
) -> Calls:
    """What to time of a provider."""
    op = provider.op
    if hasattr(provider, "calls"):
        return provider.calls(arrays, params, grad)
    calls: Calls = {"forward": lambda: op.compute(*arrays, **params)}
    if op.backward is not None:
        _, saved = op.compute(*arrays, **params)
        calls["backward"] = lambda: op.run_backward(grad, saved, params)
        calls["both"] = lambda: op.run_backward(grad, op.compute(*arrays, **params)[1], params)
    return calls


def providers(op: Op, options: argparse.Namespace) -> list[testing.Provider]:
    found = [p for p in testing.providers(op) if p.name in options.provider]
    if options.against == "torch":
        from bench import peer_torch

        if op.name in peer_torch.FUNCTIONS:
            found += peer_torch.providers(op, options.precision, options.threads)
    return found


@dataclass
class Measured:
    """What came of one case: its rows, and what is wrong. Who fails the check is not timed."""

    rows: list[dict[str, Any]]
    failures: list[str]


def upstream(op: Op, arrays: list[Any], params: dict[str, Any]) -> Any:
    """The gradient that backward starts from."""
    if op.backward is None:
        return None
    out, _ = op.compute(*arrays, **params)
    return numpy.asarray(new_generator(0).standard_normal(out.shape), numpy.float32)


def measure(
    op: Op,
    timed: cases.Built,
    checked: cases.Built,
    passes: Sequence[str],
    options: argparse.Namespace,
    limits: Limits | None,
) -> Measured:
    """Check every provider of `op` on one case, then time it on another, or on the same."""
    eps = testing.EPS["bf16" if options.precision == "bf16" else "float32"]
    truth = testing.reference(op, *checked, eps=eps)
    grad = upstream(op, *timed)
    works = work_of(op, *timed, grad)
    works["both"] = works["forward"] + works.get("backward", [])
    turns: dict[str, dict[str, Callable[[], float]]] = {which: {} for which in passes}
    precisions, failures = {}, []
    for provider in providers(op, options):
        name = provider.name
        within = partial(serving, name, options.precision, options.threads)
        with within():
            precisions[name] = getattr(provider, "precision", kernels.active_precision)
            try:
                testing.check_case(truth, provider, provider)
            except AssertionError as error:
                failures.append(str(error))
                continue
            if provider.lib is not None and not provider.served:
                continue  # the reference serves this case
            calls = calls_of(provider, *timed, grad)
        for which in set(passes) & set(calls):
            turns[which][name] = partial(Timed(calls[which], within).turn, TURN)
    rows = []
    for which, contenders in turns.items():
        medians = alternate(contenders, options.rounds)
        for name in contenders:
            row: dict[str, Any] = {"op": op.name, "pass": which, "precision": precisions[name]}
            row |= {"provider": name, "threads": options.threads} | figures(medians, name)
            rows.append(row | rates(works[which], row["ms"], precisions[name], limits))
    return Measured(rows, failures)


def of_models(options: argparse.Namespace, limits: Limits | None) -> Iterator[Measured]:
    """Every op at the shapes of each model size."""
    for size_name in options.size:
        for name in options.only or registry:
            built = case(registry[name], SIZES[size_name])
            passes = "forward", "backward"
            measured = measure(registry[name], built, built, passes, options, limits)
            shapes = " ".join("x".join(map(str, numpy.shape(a))) for a in built[0] if numpy.ndim(a))
            for row in measured.rows:
                row |= {"size": size_name, "shapes": shapes}
            yield measured


def of_cases(options: argparse.Namespace, limits: Limits | None) -> Iterator[Measured]:
    """The fixed cases, and forward and backward in one besides."""
    passes = "forward", "backward", "both"
    for found in cases.CASES:
        if options.only is None or found.group in options.only:
            built, checked = found.built(), found.checked()
            measured = measure(registry[found.op], built, checked, passes, options, limits)
            for row in measured.rows:
                row["case"] = found.name
            yield measured


def run(options: argparse.Namespace) -> int:
    fixed = options.command == "cases"
    known = cases.GROUPS if fixed else tuple(registry)
    unknown = sorted(set(options.only or ()) - set(known))
    if unknown:
        raise ValueError(f"only: no op {unknown[0]!r}, one of {', '.join(known)} is needed")
    limits = measure_limits(options.threads)
    log = report.Report(options, OF_CASES if fixed else COLUMNS, limits)
    failed = False
    for measured in (of_cases if fixed else of_models)(options, limits):
        for row in measured.rows:
            log.add(row)
        for line in measured.failures:
            print(f"WRONG, not timed: {line}", file=sys.stderr)
        failed = failed or bool(measured.failures)
    log.finish()
    return 1 if failed else 0

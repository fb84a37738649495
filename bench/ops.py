"""Time every op of the registry, forward and backward, after checking it at the size timed."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy

from bench import report
from bench.models import SIZES, Size, serving
from bench.turns import Contender, alternate, figures
from minillm import kernels, testing
from minillm.op import Op
from minillm.ops import registry

TURN = 0.05  # seconds
COLUMNS = "op pass size precision provider ms spread ratio_reference ratio_torch shapes"
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
    """One pass of an op by one provider."""

    def __init__(self, call: Callable[[], Any], within: Callable[[], AbstractContextManager[Any]]):
        self.step = call  # type: ignore[method-assign]
        self.within = within

    def turn(self, seconds: float) -> float:
        with self.within():
            return super().turn(seconds)


def calls_of(
    provider: testing.Provider, truth: testing.Reference, arrays: list[Any], params: dict[str, Any]
) -> Calls:
    """What to time of `provider`, after its check; nothing if the reference serves this case."""
    testing.check_case(truth, provider, provider)
    if provider.lib is not None and not provider.served:
        return {}
    op = provider.op
    (grad,) = testing.cast([truth.grads_upstream], "float32")
    if hasattr(provider, "calls"):
        return provider.calls(arrays, params, grad)
    calls: Calls = {"forward": lambda: op.compute(*arrays, **params)}
    if op.backward is not None:
        _, saved = op.compute(*arrays, **params)
        calls["backward"] = lambda: op.run_backward(grad, saved, params)
    return calls


def providers(op: Op, options: argparse.Namespace) -> list[testing.Provider]:
    found = [p for p in testing.providers(op) if p.name in options.provider]
    if options.against == "torch":
        from bench import peer_torch

        if op.name in peer_torch.FUNCTIONS:
            context = peer_torch.set_up(options.precision, options.threads)
            found.append(peer_torch.TorchProvider(op, context))
    return found


def measure(op: Op, size_name: str, options: argparse.Namespace) -> tuple[list[Any], list[str]]:
    """The rows of one op, and what is wrong with it. Who fails the check is not timed."""
    arrays, params = case(op, SIZES[size_name])
    eps = testing.EPS["bf16" if options.precision == "bf16" else "float32"]
    truth = testing.reference(op, arrays, params, eps=eps)
    turns: dict[str, dict[str, Callable[[], float]]] = {"forward": {}, "backward": {}}
    precisions, failures = {}, []
    for provider in providers(op, options):
        name = provider.name
        within = partial(serving, name, options.precision, options.threads)
        with within():
            precisions[name] = options.precision if name == "torch" else kernels.active_precision
            try:
                calls = calls_of(provider, truth, arrays, params)
            except AssertionError as error:
                failures.append(str(error))
                continue
        for which, call in calls.items():
            turns[which][name] = partial(Timed(call, within).turn, TURN)
    shapes = " ".join("x".join(map(str, numpy.shape(a))) for a in arrays if numpy.ndim(a))
    rows = []
    for which, contenders in turns.items():
        medians = alternate(contenders, options.rounds)
        for name in contenders:
            row: dict[str, Any] = {"op": op.name, "pass": which, "size": size_name}
            row |= {"shapes": shapes, "precision": precisions[name], "provider": name}
            rows.append(row | {"threads": options.threads} | figures(medians, name))
    return rows, failures


def run(options: argparse.Namespace) -> int:
    unknown = sorted(set(options.only or ()) - set(registry))
    if unknown:
        raise ValueError(f"--only: no op {unknown[0]!r}, one of {', '.join(registry)} is needed")
    log = report.Report(options, COLUMNS)
    failed = False
    for size_name in options.size:
        for name in options.only or registry:
            rows, wrong = measure(registry[name], size_name, options)
            for row in rows:
                log.add(row)
            for line in wrong:
                print(f"WRONG, not timed: {line}", file=sys.stderr)
            failed = failed or bool(wrong)
    log.finish()
    return 1 if failed else 0

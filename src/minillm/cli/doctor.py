"""Show what is installed, and prove on this machine that all providers agree with the reference."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from minillm.cli.main import FAILED, OK

if TYPE_CHECKING:
    from minillm.op import Op
    from minillm.testing import Provider

CASES = 12
SEARCHED = 30  # further cases, until a library serves one
PRODUCT, PRODUCT_SECONDS = 1024, 0.1
MEMORY_BYTES, CACHE_BYTES = 1 << 28, 1 << 20
PACKAGES = ("numpy", "safetensors", "tqdm", "tokenizers", "cupy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases", type=int, default=CASES, metavar="N", help=f"random cases for each op ({CASES})"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object when it is done")


def run(arguments: argparse.Namespace) -> int:
    if arguments.cases < 1:
        raise ValueError(f"cases: {arguments.cases}, 1 or more is needed")
    show = (lambda line: None) if arguments.json else print
    facts = {}
    for name, text in _environment():
        facts[name] = text
        show(f"{name:12} {text}")
    show("")
    begin = time.perf_counter()
    ops, failures = _check_ops(arguments.cases, show)
    seconds = time.perf_counter() - begin
    if arguments.json:
        found = {"environment": facts, "ops": ops, "failures": failures, "seconds": seconds}
        print(json.dumps(found, ensure_ascii=False))
    elif failures:
        print(f"\n{len(failures)} check{'s' * (len(failures) > 1)} failed in {seconds:.1f} s:")
        for line in failures:
            print(f"  {line}")
    else:
        print(f"\nall providers agree with the float64 reference ({seconds:.1f} s)")
    return FAILED if failures else OK


def _environment() -> Iterator[tuple[str, str]]:
    """What is installed and what the machine is, by name."""
    from minillm import kernels
    from minillm.machine import environment

    yield from environment().items()
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            yield name, "not installed" + _for_the_driver() * (name == "cupy")
        elif name != "numpy":
            yield name, _version(name)
    if importlib.util.find_spec("cupy") is not None:
        yield from _gpus()
    if kernels.cpu is None:
        yield "extension", "none: NumPy serves every op"
    else:
        runtime = kernels.cpu.runtime
        yield (
            "extension",
            f"C++ for {runtime.isa()} (this machine runs "
            f"{', '.join(runtime.available_isas())}), {_threads(runtime.threads())}",
        )
    yield "bf16", "yes" if kernels.has_bf16("cpu") else "no, float32 is used instead"
    if kernels.cpu is not None:
        yield from _speed(kernels.cpu.runtime)


def _gpus() -> Iterator[tuple[str, str]]:
    """Each GPU and whether a kernel runs there; or why there is none."""
    from minillm import devices, kernels, testing

    try:
        found = devices.cards()
    except RuntimeError as error:
        yield "cuda", str(error).removeprefix("device: ")
        return
    ready = []
    graphs = "" if kernels.graphs else ", no graphs (MINILLM_GRAPHS=off)"
    extension = "CuPy serves every op" if kernels.cuda is None else f"extension _cuda{graphs}"
    for card in found:
        try:
            state = f"a kernel was compiled and run in {devices.probe(card.number):.2f} s"
            ready.append(card.number)
        except RuntimeError as error:
            state = str(error).removeprefix("device: ")
        yield f"cuda:{card.number}", f"{card}, compute {card.capability}; {extension}; {state}"
    if ready:
        cupy = devices.use(ready[0])
        testing.devices = [testing.Device("cupy", None, cupy, cupy.asarray)]
        if kernels.cuda is not None:
            testing.devices.append(testing.Device("cuda", kernels.cuda, cupy, cupy.asarray))


def _for_the_driver() -> str:
    """What to install where there is a GPU's driver but not CuPy."""
    from minillm import devices
    from minillm.machine import cuda_driver

    driver = cuda_driver()
    extra = None if driver is None else devices.extra_for(driver)
    return "" if extra is None else f"; the driver of NVIDIA here runs the extra {extra}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _speed(runtime: Any) -> Iterator[tuple[str, str]]:
    """What the machine does at best, and how near a matrix product comes to it."""
    most = runtime.threads()
    peaks = {"f32": runtime.peak_f32(), "bf16": runtime.peak_bf16()}
    runtime.set_threads(1)
    single = {"f32": runtime.peak_f32(), "bf16": runtime.peak_bf16()}
    runtime.set_threads(most)
    for name, peak in peaks.items():
        if peak:
            yield (
                f"peak {name}",
                f"{peak:,.0f} GFLOP/s on {_threads(most)}, "
                f"{single[name]:,.0f} on 1; a product of {PRODUCT} square reaches "
                f"{_product_rate(name) / peak:.0%}",
            )
    for name, size in (("memory", MEMORY_BYTES), ("cache", CACHE_BYTES)):
        read, copy = runtime.peak_read(size), runtime.peak_copy(size)
        yield name, f"{read:.0f} GB/s read, {copy:.0f} copied ({size >> 20} MB)"


def _product_rate(precision: Any) -> float:
    """GFLOP/s of the best of some square matrix products."""
    from minillm import kernels, ops
    from minillm.arrays import new_generator

    a, b = new_generator(0).standard_normal((2, PRODUCT, PRODUCT), dtype="float32")
    best, end = math.inf, time.perf_counter() + PRODUCT_SECONDS
    with kernels.precision(precision, "cpu"):
        while time.perf_counter() < end or best == math.inf:
            begin = time.perf_counter()
            ops.matmul.compute(a, b)
            best = min(best, time.perf_counter() - begin)
    return 2 * PRODUCT**3 / best / 1e9


def _version(name: str) -> str:
    found = importlib.metadata.packages_distributions().get(name, [name])
    return importlib.metadata.version(found[0])


def _check_ops(
    cases: int, show: Callable[[str], None]
) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """Show one line an op. The worst shares by op and check, None if wrong; what failed."""
    from minillm import testing
    from minillm.ops import registry

    found: dict[str, dict[str, float | None]] = {}
    failures: list[str] = []
    for op in registry.values():
        checks: list[tuple[str, Callable[[Any, int], float | None], Any]] = [
            (provider.name, _share_of, provider) for provider in testing.providers(op)
        ]
        if op.backward is not None:
            checks.append(("gradient", _check_gradients, op))
        found[op.name], cells = {}, []
        for name, check, subject in checks:
            try:
                share = check(subject, cases)
            except Exception as error:  # whatever a wrong kernel does is a finding
                known = isinstance(error, AssertionError)
                failures.append(str(error) if known else f"{op.name}: {name} raised {error!r}")
                cells.append(f"{name} WRONG")
                found[op.name][name] = None
                continue
            if share is not None:
                cells.append(f"{name} {share:.2f}")
                found[op.name][name] = share
        show(f"{op.name:30} {'   '.join(cells)}")
    show("(the figure is the worst error as a share of what is tolerated)")
    return found, failures


def _share_of(provider: Provider, cases: int) -> float:
    """The worst share of the tolerated error in random cases, more of them until one is served."""
    from minillm import testing

    worst, seed = 0.0, 0
    while seed < cases or (provider.lib is not None and not provider.served):
        if seed == cases + SEARCHED:
            raise AssertionError(
                f"{provider.op.name}: {provider.name} claims it, but serves no case"
            )
        truth = testing.reference(provider.op, *testing.sampled(provider.op, seed), seed)
        worst = max(worst, testing.check_case(truth, provider, provider))
        seed += 1
    return worst


def _check_gradients(op: Op, cases: int) -> None:
    from minillm import testing

    for seed in range(cases):
        testing.check_gradient(op, *testing.sampled(op, seed), seed)

"""Show what is installed, and prove on this machine that all providers agree with the reference."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import time

from minillm.cli.main import FAILED, OK

CASES = 12
PACKAGES = ("numpy", "safetensors", "tqdm", "tokenizers", "cupy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases", type=int, default=CASES, metavar="N", help=f"random cases for each op ({CASES})"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.cases < 1:
        raise ValueError(f"--cases: {arguments.cases}, 1 or more is needed")
    _show_environment()
    begin = time.perf_counter()
    failures = _check_ops(arguments.cases)
    seconds = time.perf_counter() - begin
    if failures:
        print(f"\n{len(failures)} checks failed in {seconds:.1f} s:")
        for line in failures:
            print(f"  {line}")
        return FAILED
    print(f"\nall providers agree with the float64 reference ({seconds:.1f} s)")
    return OK


def _show_environment() -> None:
    from minillm import kernels
    from minillm.training.machine import environment

    for name, value in environment().items():
        print(f"{name:12} {value}")
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            print(f"{name:12} not installed")
        elif name != "numpy":
            print(f"{name:12} {_version(name)}")
    if kernels.cpu is None:
        print("extension    none: NumPy serves every op")
    else:
        runtime = kernels.cpu.runtime
        print(
            f"extension    C++ for {runtime.isa()} (built for {', '.join(runtime.available_isas())}"
            f" of this machine), {runtime.threads()} threads"
        )
    print(f"bf16         {'yes' if kernels.has_bf16() else 'no, float32 is used instead'}\n")


def _version(name: str) -> str:
    found = importlib.metadata.packages_distributions().get(name, [name])
    return importlib.metadata.version(found[0])


def _check_ops(cases: int) -> list[str]:
    """One line an op: each provider with the worst share of the tolerated error."""
    from minillm import testing
    from minillm.ops import registry

    failures = []
    for op in registry.values():
        cells = []
        for provider in testing.providers(op):
            try:
                worst = testing.worst_share(op, provider, cases)
            except AssertionError as error:
                failures.append(str(error))
                cells.append(f"{provider.name} WRONG")
                continue
            if provider.lib is not None and not provider.served:
                failures.append(f"{op.name}: {provider.name} claims it but served no case")
            cells.append(f"{provider.name} {worst:.2f}")
        if op.backward is not None:
            try:
                for seed in range(cases):
                    testing.check_gradient(op, *testing.sampled(op, seed), seed)
            except AssertionError as error:
                failures.append(str(error))
                cells.append("gradient WRONG")
        print(f"{op.name:30} {'   '.join(cells)}")
    print("(the figure is the worst error as a share of what is tolerated)")
    return failures

"""The same bits in every process, on one thread and on several: of every op, of a training run."""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from minillm import kernels, testing
from minillm.ops import registry
from small_runs import arrays_of, environment, trainer

PRECISIONS = ["f32", "bf16"] if kernels.has_bf16() else ["f32"]
STEPS = 200
MODEL = {"layers": 2, "heads": 2, "width": 64, "context": 48, "batch": 6, "dropout": 0.1}

pytestmark = pytest.mark.skipif(
    kernels.cpu is None, reason="the C++ extension is not installed: nothing runs on threads"
)


class Large(testing.Draw):
    """Lengths that give several threads something to do."""

    def size(self, name, low=0):
        return {"B": 6, "H": 6, "T": 90, "C": 70, "D": 40, "V": 400, "N": 170}[name]


def large_cases(op):
    """The largest of some random cases, but none of absurd size."""
    drawn = [op.sample(Large(seed)) for seed in range(24)]
    sizes = [sum(np.size(a) for a in arrays) for arrays, _ in drawn]
    largest = sorted(range(24), key=lambda place: (sizes[place] > 1 << 22, -sizes[place]))
    return [(testing.cast(drawn[place][0], "float32"), drawn[place][1]) for place in largest[:2]]


def results(op, arrays, params):
    """All that an op computes: forward, backward, and backward onto totals."""
    provider = testing.providers(op)[-1]
    outs, saved = testing.outputs(op, provider, arrays, params)
    if op.backward is None:
        return outs
    upstream = np.ones(np.shape(outs[0]), np.float32)
    totals = [
        np.ones_like(a) if place in op.accumulates and a is not None else None
        for place, a in enumerate(arrays)
    ]
    grads = [provider.backward(upstream, saved, params, given) for given in ((), totals)]
    return [*outs, *grads[0], *grads[1]]


def digest(arrays):
    found = hashlib.sha256()
    for array in arrays:
        found.update(b"none" if array is None else np.asarray(array).tobytes())
    return found.hexdigest()


def training_digests(precision):
    """Of weights and moments after the last step, and after the one before."""
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(Path(folder), threads=kernels.threads(), precision=precision, **MODEL)
        found = {}
        for step in range(1, STEPS + 1):
            assert run.step(step / STEPS).skipped is None
            if step >= STEPS - 1:
                found[f"{step} steps {precision}"] = digest(arrays_of(run).values())
        return found


def digests():
    found = {}
    for precision in PRECISIONS:
        with kernels.precision(precision):
            for op in registry.values():
                case = [a for arrays in large_cases(op) for a in results(op, *arrays)]
                found[f"{op.name} {precision}"] = digest(case)
        found |= training_digests(precision)
    return found


@pytest.fixture(scope="module")
def runs():
    """The digests of two processes, by their number of threads."""
    found = {}
    for threads in ("1", "2"):
        changes = {"MINILLM_THREADS": threads, "PYTHONHASHSEED": threads}
        done = subprocess.run(
            [sys.executable, __file__],
            capture_output=True,
            encoding="utf-8",
            env=environment(**changes),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found[threads] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("what", [*registry, f"{STEPS} steps"])
def test_no_process_and_no_number_of_threads_changes_a_bit(runs, what, precision):
    assert len({found[f"{what} {precision}"] for found in runs.values()}) == 1


def test_other_results_have_other_digests(runs):
    found = runs["2"]
    for precision in PRECISIONS:
        steps = {found[f"{count} steps {precision}"] for count in (STEPS - 1, STEPS)}
        assert len(steps) == 2
    for what in ("matmul", "linear", "feed_forward", "packed_attention", f"{STEPS} steps"):
        assert len({found[f"{what} {precision}"] for precision in PRECISIONS}) == len(PRECISIONS)


def test_cases_are_large_enough_for_several_threads():
    for op in registry.values():
        if any(op.kernels(kernels.cpu)):
            assert max(sum(np.size(a) for a in arrays) for arrays, _ in large_cases(op)) > 1 << 15


def bits_of_each_instruction_set(op):
    runtime, found = kernels.cpu.runtime, {}
    before = runtime.isa()
    try:
        for isa in runtime.available_isas():
            runtime.set_isa(isa)
            found[isa] = digest(a for case in large_cases(op) for a in results(op, *case))
    finally:
        runtime.set_isa(before)
    return found


def test_instruction_sets_share_bits_where_the_readme_says_so():
    shared, by_tiles = [], []
    for op in registry.values():
        if any(op.kernels(kernels.cpu)):
            found = bits_of_each_instruction_set(op)
            if "amx" in found and found["amx"] != found["avx512"]:
                by_tiles.append(op.name)
            if len(set(found.values())) == 1:
                shared.append(op.name)
    if len(kernels.cpu.runtime.available_isas()) > 1:
        assert sorted(shared) == ["dropout", "embedding", "lerp", "norm"]
    if "amx" in kernels.cpu.runtime.available_isas():
        large = ["block_linear", "feed_forward", "linear", "linear_cross_entropy"]
        assert sorted(by_tiles) == large


if __name__ == "__main__":
    print(json.dumps(digests()))

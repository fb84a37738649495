"""The benchmarks: what they draw, how they take turns, and that they refuse what is wrong."""

import argparse
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench is not installed

from bench import cases, crash, environment, limits, ops, overhead, report, steps, turns
from bench.limits import Limits, Work
from bench.models import SIZES, Size, Training

from minillm import kernels
from minillm.ops import registry

ROOT = Path(__file__).resolve().parents[1]
ATTENTION = "scaled_dot_product_attention"
LIMITS = Limits(
    f32=100.0,
    bf16=1000.0,
    read={1 << 20: 200.0, 1 << 28: 20.0},
    copy={1 << 20: 100.0, 1 << 28: 10.0},
)
TINY = Size(layers=1, heads=2, width=8, context=16, batch=2, vocabulary=11)


@pytest.fixture(autouse=True)
def switches_restored():
    """What a contender sets holds to the end of its process, which here is that of all tests."""
    threads = kernels.threads()
    with kernels.use("auto"), kernels.precision("f32"):
        yield
    kernels.set_threads(threads)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def rows_of(path: Path, *arguments: str) -> list[dict]:
    done = bench(*arguments, "--rounds", "1", "--json", str(path))
    assert done.returncode == 0, done.stderr
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["machine"]["numpy"] == numpy.__version__
    assert arguments[0] in content["command"]
    return content["rows"]


@pytest.mark.parametrize("name", registry)
def test_every_op_gets_a_case_that_it_accepts_and_that_fits_in_memory(name):
    arrays, params = ops.case(registry[name], SIZES["XS"])
    out, _ = registry[name].compute(*arrays, **params)
    assert numpy.size(out) and sum(numpy.size(a) for a in arrays) <= ops.LARGEST


def test_cases_have_the_shapes_of_the_model():
    shapes = {
        name: [numpy.shape(a) for a in ops.case(registry[name], SIZES["XS"])[0] if a is not None]
        for name in ("softmax", "linear", "cross_entropy", "embedding", "add", "layer_norm")
    }
    assert shapes == {
        "softmax": [(12, 64, 128)],
        "linear": [(12, 64, 128), (512, 128), (512,)],
        "cross_entropy": [(12, 64, 65), (12, 64)],
        "embedding": [(65, 128), (12, 64)],
        "add": [(12, 64, 128), (12, 64, 128)],
        "layer_norm": [(12, 64, 128), (128,), (128,)],
    }
    (q, k, v, mask), params = ops.case(registry["scaled_dot_product_attention"], SIZES["XS"])
    assert q.shape[2:] == k.shape[2:] == v.shape[2:] == (64, 32) and mask is None
    assert params == {"causal": True, "offset": 0, "scale": None, "window": None}
    assert ops.case(registry["gelu"], SIZES["XS"])[1] == {"approximate": "tanh"}


def test_a_case_that_is_too_large_has_every_axis_halved(monkeypatch):
    monkeypatch.setattr(ops, "LARGEST", 10_000)

    class Greedy:
        @staticmethod
        def sample(draw):
            return [draw.normal(draw.size("V"), draw.size("N"))], {}

    ((array,), _) = ops.case(Greedy, SIZES["XS"])
    assert array.shape == (65 // 2, 4 * 128 // 2) and array.dtype == numpy.float32


def test_turns_alternate_and_the_first_round_is_not_kept():
    order = []

    def turn(name):
        order.append(name)
        return float(len(order))

    medians = turns.alternate({"a": lambda: turn("a"), "b": lambda: turn("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert medians == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    medians = {"cpu": [1.0, 2.0, 10.0], "reference": [3.0, 10.0, 20.0]}
    assert turns.figures(medians, "cpu") == {"ms": 2.0, "spread": 4.5, "ratio_reference": 3.0}
    assert "ratio_torch" not in turns.figures(medians, "reference")


def test_the_rival_is_the_fastest_pytorch():
    medians = {"cpu": [2.0], "torch": [6.0], "torch-f32": [5.0], "torchless": [1.0]}
    assert turns.best_of(medians, "torch") == "torch-f32"
    assert turns.figures(medians, "cpu")["ratio_torch"] == 2.5


def test_the_flop_of_a_step_are_those_of_its_formula():
    found = {name: round(size.step_flop / 1e9, 2) for name, size in SIZES.items()}
    assert found == {"XS": 3.96, "S": 217.89, "M": 393.99}
    assert SIZES["M"].parameters == 12 * 12 * 768**2 + 50257 * 768
    assert steps.work_of(SIZES["XS"]).read == 4 * (4 * 12 * 128**2 + 65 * 128)


def row_of(provider, ms, peak, **more):
    figures = {"provider": provider, "ms": ms, "peak_rss_mb": peak, "spread": 0.02}
    return {"size": "S", "precision": "f32"} | figures | more


def test_the_verdict_names_the_fastest_pytorch_and_compares_memory_with_it():
    rows = [
        row_of("reference", 4000.0, 900.0, ratio_torch=0.2),
        row_of("cpu", 500.0, 550.0, ratio_torch=1.43),
        row_of("torch", 800.0, 2000.0),
        row_of("torch-compile", 715.0, 1000.0),
    ]
    steps.with_memory(rows)
    assert [row["ratio_memory"] for row in rows] == [0.9, 0.55, 2.0, 1.0]
    assert steps.verdict(rows) == (
        "S f32: 1.43 x the best PyTorch (compile), spread 2% and 2%, memory 0.55 x"
    )
    rows[2]["ms"] = 600.0
    assert "the best PyTorch (eager)" in steps.verdict(rows)
    assert steps.verdict(rows[:2]) == "" == steps.verdict(rows[2:])


class Lodger(turns.Contender):
    """Lives in a worker's process."""

    most = 3

    def __init__(self):
        self.calls = 0

    def step(self):
        self.calls += 1

    def where(self):
        return os.getpid(), self.calls

    def variable(self, name):
        return os.environ.get(name)

    def fail(self):
        raise ValueError("no such thing")

    def die(self):
        os._exit(7)


def test_a_worker_is_a_process_of_its_own_and_says_how_it_failed():
    with turns.workers({"lodger": (Lodger,)}) as running:
        lodger = running["lodger"]
        assert lodger("turn", 5.0) >= 0
        process, calls = lodger("where")
        assert process != os.getpid()
        assert calls == 4  # one to warm up, then as many as `most` allows
        with pytest.raises(RuntimeError, match="lodger: ValueError: no such thing"):
            lodger("fail")
        with pytest.raises(RuntimeError, match="lodger: its process ended with exit code 7"):
            lodger("die")


def test_only_the_worker_that_is_named_gets_its_environment(monkeypatch):
    monkeypatch.delenv("MALLOC_TOP_PAD_", raising=False)
    both = {"keeps": (Lodger,), "plain": (Lodger,)}
    with turns.workers(both, {"keeps": environment.KEEP_MEMORY}) as running:
        found = {name: worker("variable", "MALLOC_TOP_PAD_") for name, worker in running.items()}
    assert found == {"keeps": "268435456", "plain": None}
    assert "MALLOC_TOP_PAD_" not in os.environ


def losses_of(change):
    """The losses of a tiny model that `change` has tampered with."""
    training = Training(TINY, "reference", "f32", 1)
    change(training.model)
    return lambda method: training.losses()


def test_a_model_that_computes_something_else_is_found_by_its_losses():
    def other_norm(model):
        model.ln_f.eps *= 1.1

    running = {"right": losses_of(lambda model: None), "wrong": losses_of(other_norm)}
    found = steps.disagreements(TINY, "f32", running)
    assert len(found) == 1 and found[0].startswith("wrong: loss off by ")


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_wrong_kernel_is_named_and_not_timed(monkeypatch, factor):
    library = types.ModuleType("library")
    no_run = types.SimpleNamespace(begin_step=lambda: None, end_step=lambda former: None)
    library.runtime = types.SimpleNamespace(
        set_threads=lambda count: None,
        set_bf16=lambda wanted: None,
        has_bf16=lambda: False,
        Run=lambda: no_run,
    )

    def silu_forward(x, out):
        out[...] = factor * registry["silu"].forward(numpy, x)[0]

    library.silu_forward = silu_forward
    monkeypatch.setattr(kernels, "cpu", library)
    monkeypatch.setattr(ops, "TURN", 0.0)
    options = argparse.Namespace(
        provider=["reference", "cpu"], against=None, precision="f32", threads=1, rounds=1
    )
    built = ops.case(registry["silu"], SIZES["XS"])
    found = ops.measure(registry["silu"], built, built, ("forward", "backward"), options, LIMITS)
    timed = {row["provider"] for row in found.rows}
    if factor == 1.0:
        assert timed == {"reference", "cpu"} and not found.failures
    else:
        assert timed == {"reference"} and "silu: forward of cpu" in found.failures[0]


def flop_of(name, *shapes, **params):
    return limits.FLOP[name](*(numpy.zeros(shape) for shape in shapes), **params)


def test_flop_of_products_are_counted_as_by_hand():
    assert flop_of("matmul", (3, 1, 4, 5), (2, 5, 7)) == (6 * 4 * 5 * 7 * 2, 2 * 1680)
    assert flop_of("linear", (2, 3, 384), (1152, 384)) == (5308416, 10616832)
    assert flop_of("linear_cross_entropy", (10, 8), (50, 8), (10,)) == (8000, 16000)
    q, options = (2, 3, 4, 8), {"offset": 0, "scale": None}
    layers = (4, 3, 8), (32, 8), (32,), (6, 32), (6,)
    forward = 2 * 4 * 3 * (8 * 32 + 32 * 6)
    assert flop_of("feed_forward", *layers, activation="gelu") == (forward, 2 * forward)
    full = flop_of(ATTENTION, q, (2, 3, 5, 8), (2, 3, 5, 6), causal=False, **options)
    assert full == (2 * 2 * 3 * 4 * 5 * (8 + 6), 2 * 2 * 3 * 4 * 5 * (3 * 8 + 2 * 6))
    causal = flop_of(ATTENTION, q, q, q, causal=True, **options)
    assert causal[0] == 2 * 2 * 3 * (1 + 2 + 3 + 4) * 16
    assert flop_of("packed_attention", (2, 4, 3 * 3 * 8), heads=3) == causal


def test_pairs_of_a_causal_mask_are_those_that_it_lets_through():
    for rows, keys, offset in ((5, 5, 0), (3, 7, 2), (6, 2, 0), (4, 9, 9)):
        mask = numpy.arange(keys) <= numpy.arange(rows)[:, None] + offset
        assert limits.attended(rows, keys, True, offset) == mask.sum()
        near = numpy.arange(keys) > numpy.arange(rows)[:, None] + offset - 3
        assert limits.attended(rows, keys, True, offset, 3) == (mask & near).sum()
    assert limits.attended(3, 4, False, 0) == 12


def works_of(name, size=TINY):
    arrays, params = ops.case(registry[name], size)
    return limits.work_of(
        registry[name], arrays, params, ops.upstream(registry[name], arrays, params)
    )


@pytest.mark.parametrize("name", registry)
def test_the_work_of_every_operation_is_known(name):
    assert works_of(name)["forward"]


def test_bytes_are_inputs_read_and_outputs_written_once():
    row, table = 2 * 16 * 8 * 4, 11 * 8 * 4  # B T C and V C of TINY, in float32
    assert works_of("relu")["forward"] == [Work(0, row, row)]
    assert works_of("softmax")["backward"] == [Work(0, 2 * row, row)]  # upstream and result
    assert works_of("add")["forward"] == [Work(0, 2 * row, row)]
    assert works_of("add")["backward"] == [Work()]  # passes the gradient on
    ids = 2 * 16 * 8
    scalar = works_of("cross_entropy")["forward"]
    assert scalar == [Work(0, 2 * 16 * 11 * 4 + 2 * 16 * 8, 4)]  # logits, targets; the mean
    assert works_of("embedding")["forward"] == [Work(0, ids + row, row)]
    assert works_of("embedding")["backward"] == [Work(0, ids + row, table)]
    three = 3 * row  # parameters
    assert works_of("adamw") == {"forward": [Work(0, 4 * three, 3 * three)]}


def test_the_limit_is_what_takes_longest_and_fits_the_working_set():
    assert LIMITS.least(Work(1e9, 1e6, 1e6), "f32") == (10.0, "f32")
    assert LIMITS.least(Work(1e9, 1e6, 1e6), "bf16") == (1.0, "bf16")
    assert LIMITS.least(Work(0, 5e5, 5e5), "f32") == (0.01, "copy 1 MB")
    assert LIMITS.least(Work(0, 1e9, 1e8), "f32") == (55.0, "read 256 MB")
    no_tiles = Limits(100.0, 0.0, LIMITS.read, LIMITS.copy)
    assert no_tiles.least(Work(1e9, 1e6, 1e6), "bf16") == (10.0, "f32")


def test_rates_of_a_row():
    works = [Work(1e9, 1e6, 1e6), Work(0, 5e7, 5e7)]
    assert limits.rates(works, 40.0, "f32", LIMITS) == {
        "gflops": 25.0, "gb_per_s": 2.55, "limit": "f32", "share": 0.5,
    }  # fmt: skip
    assert limits.rates(works[1:], 40.0, "f32", None) == {"gb_per_s": 2.5}


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_a_fixed_case_is_checked_at_a_size_that_float64_has_quickly(case):
    arrays, params = case.checked()
    assert sum(numpy.size(array) for array in arrays) <= 6 * cases.CHECKED
    forward, _ = limits.FLOP.get(case.op, lambda *a, **p: (0, 0))(*arrays, **params)
    assert forward <= cases.CHECKED_FLOP
    out, _ = registry[case.op].compute(*arrays, **params)
    assert numpy.isfinite(out).all()


def test_fixed_cases_are_products_and_operations_of_the_stated_shapes():
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
    assert {"square 384x384x384", "square 4096x4096x4096", "linear 512x50257x768"} <= set(names)
    found = next(case for case in cases.CASES if case.name == "linear 3072x1152x384")
    assert [numpy.shape(array) for array in found.built()[0][:2]] == [(3072, 384), (1152, 384)]


def test_no_row_of_a_case_lacks_a_column(monkeypatch):
    monkeypatch.setattr(ops, "TURN", 0.0)
    small = cases.product("linear", "linear", cases.linear, 8, 6, 4)
    monkeypatch.setattr(cases, "CASES", [small])
    options = argparse.Namespace(
        provider=["reference"], against=None, precision="f32", threads=1, rounds=1, only=None
    )
    (found,) = ops.of_cases(options, LIMITS)
    assert [row["pass"] for row in found.rows] == ["forward", "backward", "both"]
    wanted = set(ops.OF_CASES.split()) - {"ratio_torch"}
    assert all(wanted <= row.keys() <= report.COLUMNS.keys() | {"threads"} for row in found.rows)


def test_pytorch_is_held_to_our_instruction_set():
    assert environment.torch_masks("avx2") == {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
    assert environment.torch_masks(None) == {} == environment.torch_masks("amx")


def test_ops_writes_a_row_for_each_pass_and_provider(tmp_path):
    rows = rows_of(tmp_path / "ops.json", "ops", "--only", "softmax", "--size", "XS")
    providers = ["reference"] if kernels.cpu is None else ["reference", "cpu"]
    assert [(r["pass"], r["provider"]) for r in rows if r["provider"] in providers] == [
        (which, name) for which in ("forward", "backward") for name in providers
    ]
    assert all(row["ms"] > 0 and "ratio_torch" not in row for row in rows)
    assert rows[0]["ratio_reference"] == 1


def test_models_are_timed_each_with_its_peak_of_memory(tmp_path):
    rows = rows_of(
        tmp_path / "rows.json", "train", "--size", "XS", "--threads", "1",
        "--provider", "reference",
    )  # fmt: skip
    (row,) = rows
    assert row["tokens_per_s"] == pytest.approx(12 * 64 / row["ms"] * 1e3)
    assert row["threads"] == 1 and row["precision"] == "f32"
    wanted = set(steps.COLUMNS.split()) - {"ratio_torch", "ratio_memory"}
    if kernels.cpu is not None and sys.platform == "linux":
        assert wanted <= row.keys()
    if sys.platform == "linux":
        assert 10 < row["peak_rss_mb"] < 1000


def test_overhead_measures_both_modes_and_memory(monkeypatch):
    monkeypatch.setattr(overhead, "EARLY", 2)
    monkeypatch.setattr(overhead, "LATE", 4)
    rows: list[dict] = []
    log = types.SimpleNamespace(add=rows.append)
    overhead.dispatch(log, "reference", 1, 3)
    overhead.flatness(log, "reference", 1)
    assert [row["mode"] for row in rows] == ["no_grad", "recorded", "training"]
    assert all("ns" in row for row in rows[:2])
    if sys.platform == "linux":
        assert rows[2]["rss_mb_step_2"] > 10 and rows[2]["rss_mb_step_4"] > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ops", "--only", "nonsense"], "bench: only: no op 'nonsense', one of "),
        (["train", "--compile"], "bench: compile: PyTorch does not take part"),
        (["train", "--best"], "bench: best: PyTorch does not take part"),
        (["ops", "--rounds", "0"], "bench: rounds: 0, 1 or more is needed"),
        (["ops", "--siz", "S"], "--siz; did you mean --size?"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, message):
    done = bench(*arguments)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout


def test_a_run_that_ended_by_itself_was_not_killed():
    process = crash.started(["--version"])
    process.wait(60)
    assert not crash.killed(process)
    assert crash.completed(process) == ""

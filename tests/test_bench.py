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

from bench import ops, overhead, steps, turns
from bench.models import SIZES, Decoding, Size, Training

from minillm import kernels
from minillm.ops import registry

ROOT = Path(__file__).resolve().parents[1]
TINY = Size(layers=1, heads=2, width=8, context=16, batch=2, vocabulary=11)


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
    assert params == {"causal": True, "offset": 0, "scale": None}
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


class Lodger(turns.Contender):
    """Lives in a worker's process."""

    most = 3

    def __init__(self):
        self.calls = 0

    def step(self):
        self.calls += 1

    def where(self):
        return os.getpid(), self.calls

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


def test_other_tokens_are_found():
    tokens = Decoding(TINY, "reference", "f32", 1).tokens()
    assert len(tokens) == TINY.generated
    other = [*tokens[:3], tokens[3] + 1, *tokens[4:]]
    running = {name: lambda method, t=t: t for name, t in (("a", tokens), ("b", other))}
    assert steps.different_tokens(running) == [f"b: token 3 is {other[3]}, a has {tokens[3]}"]


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_wrong_kernel_is_named_and_not_timed(monkeypatch, factor):
    library = types.ModuleType("library")
    library.runtime = types.SimpleNamespace(set_threads=lambda count: None)

    def silu_forward(x, out):
        out[...] = factor * registry["silu"].forward(numpy, x)[0]

    library.silu_forward = silu_forward
    monkeypatch.setattr(kernels, "cpu", library)
    monkeypatch.setattr(ops, "TURN", 0.0)
    options = argparse.Namespace(
        provider=["reference", "cpu"], against=None, precision="f32", threads=1, rounds=1
    )
    rows, failures = ops.measure(registry["silu"], "XS", options)
    timed = {row["provider"] for row in rows}
    if factor == 1.0:
        assert timed == {"reference", "cpu"} and not failures
    else:
        assert timed == {"reference"} and "silu: forward of cpu" in failures[0]


def test_ops_writes_a_row_for_each_pass_and_provider(tmp_path):
    rows = rows_of(tmp_path / "ops.json", "ops", "--only", "softmax", "--size", "XS")
    providers = ["reference"] if kernels.cpu is None else ["reference", "cpu"]
    assert [(r["pass"], r["provider"]) for r in rows if r["provider"] in providers] == [
        (which, name) for which in ("forward", "backward") for name in providers
    ]
    assert all(row["ms"] > 0 and "ratio_torch" not in row for row in rows)
    assert rows[0]["ratio_reference"] == 1


@pytest.mark.parametrize(("command", "tokens"), [("train", 12 * 64), ("generate", 1)])
def test_models_are_timed_each_with_its_peak_of_memory(tmp_path, command, tokens):
    rows = rows_of(
        tmp_path / "rows.json", command, "--size", "XS", "--threads", "1",
        "--provider", "reference",
    )  # fmt: skip
    (row,) = rows
    assert row["tokens_per_s"] == pytest.approx(tokens / row["ms"] * 1e3)
    assert row["threads"] == 1 and row["precision"] == "f32"
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
        (["ops", "--only", "nonsense"], "--only: no op 'nonsense', one of "),
        (["train", "--compile"], "--compile: PyTorch does not take part"),
        (["ops", "--rounds", "0"], "--rounds"),
        (["ops", "--siz", "S"], "--siz; did you mean --size?"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, message):
    done = bench(*arguments)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout

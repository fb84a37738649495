"""The memory of a GPU: bounded, shown, given back; and runs for which it is not enough."""

from pathlib import Path

import pytest

import stand_in_cupy
from minillm import device_memory, kernels
from minillm.arrays import to_device
from minillm.training import metrics, plan, shortage
from minillm.training.progress import Progress
from minillm.training.trainer import Trainer
from small_gpt2 import small
from small_runs import flags, minillm, result, story
from small_tuning import base

STEPS = {"steps": 6, "eval_every": 3, "save_every": 3, "sample_tokens": 0, "batch": 4}


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.txt").write_text(story(40), encoding="utf-8")
    with stand_in_cupy.installed(), kernels.use("reference"):
        yield stand_in_cupy.machine


def train(*words, out="run", **options):
    return minillm("train", "s.txt", *flags(**(STEPS | options)), "--out", out, *words)


def test_what_is_free_held_and_given_back(gpus):
    assert (device_memory.held("cpu"), device_memory.held("cuda")) == (None, 0)
    gpus.bytes = 10_000
    array = to_device(small().wte.weight.data, "cuda")
    gone = to_device(small().wte.weight.data, "cuda")
    size = array.nbytes
    del gone
    assert device_memory.held("cuda") == 2 * size
    assert device_memory.free("cuda") == 10_000 - size
    assert device_memory.free("cuda:1") == 10_000
    device_memory.limit("cuda", 3 * size)
    assert device_memory.free("cuda") == 2 * size
    device_memory.release("cuda")
    assert device_memory.held("cuda") == size
    device_memory.limit("cuda", 0)
    assert device_memory.free("cuda") == 10_000 - size
    device_memory.limit("cpu", 1)
    device_memory.release("cpu")


def test_what_cupy_says_of_a_shortage_is_understood(gpus):
    gpus.bytes = 2_000
    error = stand_in_cupy.OutOfMemoryError(1_234_567, 1_000)
    assert device_memory.shortage(error) == (1_234_567, 1_000, 2_000)
    error = stand_in_cupy.OutOfMemoryError(1_234_567, 1_000, 1_500)
    assert device_memory.shortage(error) == (1_234_567, 1_000, 1_500)
    assert str(device_memory.shortage(error)) == (
        "1.2 MB more asked for, 1.0 kB are in use and 1.5 kB possible"
    )
    assert device_memory.shortage(MemoryError("Unable to allocate 8 GiB")) is None


@pytest.mark.parametrize(
    ("batch", "needed", "most", "fixed", "rows"),
    [
        (8, 900, 500, 100, 4),  # a row takes 100
        (8, 900, 499, 100, 2),
        (6, 700, 450, 100, 3),
        (8, 900, 199, 100, 0),
        (1, 200, 150, 100, 0),
        (4, 100, 300, 200, 2),
    ],
)
def test_the_batch_that_would_fit(batch, needed, most, fixed, rows):
    assert shortage.fitting(batch, needed, most, fixed) == rows


def test_a_run_is_bounded_shows_its_memory_and_gives_it_back(gpus, capsys, monkeypatch):
    seen, step = [], Trainer.step

    def watched(self, *arguments):
        seen.append(gpus.limits.copy())
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", watched)
    assert train("--device", "cuda:1", "--max-memory", "1.5G") == 0
    assert seen == [[0, 1_500_000_000]] * 6
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert all(" of cuda:1" in line for line in lines)
    rows = metrics.read("run/metrics.jsonl")
    assert 2 * gpus.pooled[1] < 1e6 * rows[-1]["device_mb"] < 10e6


def test_progress_on_the_host_shows_no_device(gpus, capsys):
    with Progress(2) as progress:
        progress.update(1)
    assert "cuda" not in capsys.readouterr().err


def test_what_needs_more_than_is_allowed_is_refused(gpus, capsys):
    for device in ("cpu", "cuda"):
        assert train("--max-memory", "1M", "--device", device) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("minillm: max-memory: about 4")
        assert said.endswith(
            " MB needed, 1.0 MB are allowed; choose a smaller --batch, --width, --layers or "
            "--context, or --recompute"
        )
    assert train("--max-memory", "much") == 2
    assert "max-memory: 'much', a size like 800M or 1.5G is needed" in capsys.readouterr().err


def test_a_run_that_runs_out_is_saved_and_goes_on(gpus, capsys, monkeypatch):
    assert train("--device", "cuda", out="straight") == 0
    step = Trainer.step

    def ended(self, *arguments):
        if self.counters.step == 4:
            device_memory.limit("cuda", gpus.held[0] + 2_000)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", ended)
        assert train("--device", "cuda") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("minillm: train: out of memory of cuda, ")
    assert " more asked for, " in line and " are in use and " in line
    assert line.endswith(
        "; the save of step 4 is whole, it goes on where there is room: minillm train --resume run"
    )
    assert minillm("train", "--resume", "run", "--max-memory", "2G") == 0
    assert gpus.limits[0] == 2_000_000_000
    assert result(Path("run")) == result(Path("straight"))


def test_an_update_that_was_cut_is_not_saved(gpus, capsys, monkeypatch):
    update, cut_short = Trainer._update, []

    def cut(self, *arguments):
        update(self, *arguments)
        if self.counters.step == 4:
            cut_short.append(self)
            raise stand_in_cupy.OutOfMemoryError(1_000, 2_000)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", cut)
        assert train("--device", "cuda") == 2
    assert "; the save of step 3 is whole" in capsys.readouterr().err
    assert all(parameter.grad is None for parameter in cut_short[0].trained.values())
    assert minillm("train", "--resume", "run") == 0


def test_a_host_that_runs_out_saves_as_well(gpus, capsys, monkeypatch):
    def full(self, *arguments):
        raise MemoryError("Unable to allocate 8.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", full)
        assert train() == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "minillm: train: out of memory (Unable to allocate 8.00 GiB); the save of step 0 is whole, "
        "it goes on where there is room: minillm train --resume run"
    )
    assert minillm("train", "--resume", "run") == 0
    capsys.readouterr()
    assert minillm("train", "--resume", "run", "--max-memory", "1G") == 2
    assert "resume: --max-memory bounds a GPU only" in capsys.readouterr().err


def test_a_first_step_that_does_not_fit_names_what_would(gpus, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(plan, "require_memory", lambda *arguments: None)
    gpus.bytes = 160_000
    assert train("--device", "cuda", batch=16) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("minillm: train: out of memory of cuda, ")
    assert line.endswith("; try a new run with --batch 8 --accumulate 2, or --recompute")
    assert not (tmp_path / "run").exists()
    assert train("--device", "cuda", batch=1, accumulate=16) == 0


def test_a_model_that_runs_out_is_told_in_one_line(gpus, capsys, monkeypatch, tmp_path):
    base(tmp_path / "base")
    monkeypatch.setattr("minillm.models.folder.require_memory", lambda *_, **__: None)
    gpus.bytes = 20_000
    assert minillm("predict", "base", "red", "--device", "cuda") == 2
    line = capsys.readouterr().err
    assert line.startswith("minillm: predict: out of memory of the GPU, ")
    assert line.endswith("and 20.0 kB possible; a smaller model, text or batch is needed\n")

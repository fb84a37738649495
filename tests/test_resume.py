"""Resume: the bits of an uninterrupted run, wherever and however it was cut."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minillm import kernels
from minillm.models import GPT2
from minillm.training import run_folder
from minillm.training.run import Run
from minillm.training.trainer import Trainer
from small_runs import (
    CUT_RUN,
    environment,
    flags,
    minillm,
    process,
    result,
    starter,
    story,
    trainer,
    tree,
    written,
)

EPOCH = 7  # steps: 28 windows (450 training tokens, 16 a window), 2 batches of 2 a step


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts CUT_RUN in the folder of a name; the exit code."""
    return starter(tmp_path, monkeypatch, story()[:500], **CUT_RUN)


def test_an_epoch_is_seven_steps(tmp_path):
    run = trainer(tmp_path, story()[:500], **CUT_RUN)
    assert run.objective.windows.per_epoch == EPOCH * CUT_RUN["batch"] * CUT_RUN["accumulate"]


@pytest.mark.parametrize("provider", ["auto", "reference"])
def test_any_cut_gives_the_bits_of_the_straight_run(start, tmp_path, provider):
    with kernels.use(provider):
        assert start("straight") == 0
        for cut in (1, EPOCH - 2, EPOCH, 2 * EPOCH):
            assert start(f"cut{cut}", "--stop-after", cut) == 0
            assert minillm("train", "--resume", f"cut{cut}") == 0
            assert result(tmp_path / f"cut{cut}") == result(tmp_path / "straight"), cut
        assert start("often", "--stop-after", 0) == 0
        for cut in (2, 6, 10, 14, 16):
            assert minillm("train", "--resume", "often", "--stop-after", cut) == 0
        assert result(tmp_path / "often") == result(tmp_path / "straight")


@pytest.mark.parametrize("optimizer", ["muon", "adamw8bit"])
def test_a_cut_under_another_optimizer_gives_the_bits_of_the_straight_run(
    start, tmp_path, optimizer
):
    assert start("straight", "--optimizer", optimizer) == 0
    assert start("cut", "--optimizer", optimizer, "--stop-after", 5) == 0
    assert minillm("train", "--resume", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "straight")
    assert start("adamw", "--optimizer", "adamw") == 0
    assert result(tmp_path / "adamw") != result(tmp_path / "straight")


def test_a_run_from_before_there_were_optimizers_to_choose_from_goes_on(start, tmp_path):
    assert start("straight", "--optimizer", "adamw") == 0
    assert start("cut", "--optimizer", "adamw", "--stop-after", 5) == 0
    settings = tmp_path / "cut" / "training" / "settings.json"
    content = json.loads(settings.read_text())
    assert content.pop("optimizer") == "adamw"
    settings.write_text(json.dumps(content))
    assert minillm("train", "--resume", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "straight")


def test_a_cut_at_another_step_would_be_seen(start, tmp_path):
    assert start("one") == start("other", seed=1) == 0
    assert result(tmp_path / "one")[0]["state"] != result(tmp_path / "other")[0]["state"]


WIDE = {"width": 64, "layers": 2, "steps": 6, "save_every": 3, "batch": 8}


def cut_in_two_processes(**environment):
    """Train `WIDE` in the folder cut: four steps on two threads, the rest on one."""
    words = flags(**(CUT_RUN | WIDE))
    cut = ("--out", "cut", "--threads", 2, "--stop-after", 4)
    for step in (("s.txt", *words, *cut), ("--resume", "cut", "--threads", 1)):
        done = process("train", *step, PYTHONHASHSEED="7", **environment)
        assert done.returncode == 0, done.stderr


def test_threads_and_processes_change_no_bit(start, tmp_path):
    assert start("straight", "--threads", 1, **WIDE) == 0
    cut_in_two_processes()
    assert result(tmp_path / "cut") == result(tmp_path / "straight")


@pytest.mark.usefixtures("start")
def test_processes_change_no_bit_of_the_reference(tmp_path):
    """On one thread of NumPy's BLAS, whose bits may depend on how many it has."""
    alone = {"MINILLM_KERNELS": "off", "OPENBLAS_NUM_THREADS": "1"}
    words = flags(**(CUT_RUN | WIDE))
    done = process("train", "s.txt", *words, "--out", "straight", **alone)
    assert done.returncode == 0, done.stderr
    cut_in_two_processes(**alone)
    assert result(tmp_path / "cut") == result(tmp_path / "straight")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["in the first batch", "in the last batch", "in validation"])
def test_a_signal_saves_whole_steps_and_says_how_to_go_on(
    start, tmp_path, monkeypatch, capfd, number, moment
):
    assert start("straight") == 0
    calls = {"batches": -1000, "windows": -1000}  # until the run itself begins
    loss, train = GPT2.loss, Run.train

    def loss_and_signal(model, *inputs, **options):
        calls["batches" if model.training else "windows"] += 1
        at = {"in the first batch": 2 * 4 + 1, "in the last batch": 2 * 4 + 2}.get(moment)
        if calls["batches"] == at or (moment == "in validation" and calls["windows"] == 1):
            calls["batches"] += 1000
            calls["windows"] += 1000
            signal.raise_signal(number)
        return loss(model, *inputs, **options)

    def train_counted(run):
        calls.update(batches=0, windows=0)
        return train(run)

    monkeypatch.setattr(GPT2, "loss", loss_and_signal)
    before = signal.getsignal(number)
    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Run, "train", train_counted)
        assert start("cut") == 130
    assert signal.getsignal(number) is before
    step = {"in the first batch": 4, "in the last batch": 5, "in validation": 3}[moment]
    said = capfd.readouterr().err
    assert said.count("stopping: saving first; once more to leave at once\n") == 1
    assert said.endswith(f"saved after step {step}; go on with:\n  minillm train --resume cut\n")
    assert max((tmp_path / "cut/training").glob("state-*")).name == f"state-{step:08}.safetensors"
    assert (tmp_path / "cut/model.safetensors").exists()
    assert minillm("train", "--resume", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "straight")


@pytest.mark.parametrize("step", [2, 4, 9])
def test_a_step_that_never_ended_costs_what_came_after_the_last_save(
    start, tmp_path, monkeypatch, step
):
    assert start("straight") == 0
    with monkeypatch.context() as patch:
        whole_step = Trainer.step

        def breaks(run, *arguments):
            if run.counters.step == step:
                raise LookupError("broken off")
            return whole_step(run, *arguments)

        patch.setattr(Trainer, "step", breaks)
        assert start("cut") == 2
    assert minillm("train", "--resume", "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "straight")


def test_resuming_a_finished_run_changes_nothing(start, tmp_path, capsys):
    assert start("run") == 0
    before = tree(tmp_path)
    assert minillm("train", "--resume", "run/") == 0
    assert tree(tmp_path) == before
    assert capsys.readouterr().err.endswith('minillm generate run --prompt "..."\n')


def test_weights_moments_and_counters_all_come_back(tmp_path):
    """Adam by hand: lr 0.1, w = 1, gradients 1, 0.5, 0.25, cut before the last."""
    run = trainer(tmp_path, width=4, heads=1, optimizer="adamw")
    values = {}
    for cut in (False, True):
        group = run.optimizer.param_groups[0]
        group |= {"lr": 0.1, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8}
        place = run.model.wte.weight
        for arrays in run.optimizer.state:
            for array in arrays.values():
                array[...] = 0
        place.data[...], run.optimizer.steps = 1.0, 0
        for gradient in (1.0, 0.5, 0.25):
            if cut and gradient == 0.25:
                run.save()
                run = run_folder.resume(tmp_path / "run", print)
                run.optimizer.param_groups[0] |= {
                    key: group[key] for key in ("lr", "weight_decay", "betas", "eps")
                }
                place = run.model.wte.weight
            place.grad = type(place)(np.full(place.shape, gradient, np.float32))
            run.optimizer.step()
        values[cut] = float(place.data[0, 0])
    assert values[True] == values[False] == pytest.approx(0.7225118734, abs=1e-6)


def test_verify_resume_proves_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", environment())
    assert minillm("verify-resume", "--steps", 7) == 0
    assert capsys.readouterr().out.startswith("equal: 7 steps on 1 thread, and 3 + 4 steps in two")
    assert minillm("verify-resume", "--steps", 2, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["equal"], found["different"], found["steps"]) == (True, [], 2)
    assert minillm("verify-resume", "--steps", 1) == 2
    assert minillm("verify-resume", tmp_path / "none.txt") == 2
    assert "none.txt" in capsys.readouterr().err


def test_killed_at_random_moments_it_always_goes_on(tmp_path):
    script = Path(__file__).parents[1] / "bench/crash.py"
    source = written(tmp_path / "s.txt", story(300))
    words = [sys.executable, script, "--kills", "4", "--seed", "1", "--steps", "60", source]
    done = subprocess.run(
        words, capture_output=True, encoding="utf-8", env=environment(), check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kills" in done.stdout

"""Threads and precision by fabricated timings, and the arithmetic of a forecast."""

import json
import time

import pytest

from minillm import kernels
from minillm.training import speed
from minillm.training.speed import Costs
from small_runs import arrays_of, minillm, same_bits, trainer, written


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [2, 1]), (3, [3, 1]), (8, [8, 4, 1])])
def test_few_numbers_of_threads_are_tried(most, counts):
    assert speed.thread_counts(most) == counts


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({(2, "f32"): 0.1, (1, "f32"): 0.15}, (2, "f32")),
        ({(2, "f32"): 0.2, (1, "f32"): 0.15}, (1, "f32")),
        ({(2, "f32"): 0.1, (1, "f32"): 0.1}, (1, "f32")),
        ({(2, "f32"): 0.114, (2, "bf16"): 0.1}, (2, "f32")),
        ({(2, "f32"): 0.115, (2, "bf16"): 0.1}, (2, "bf16")),
        ({(2, "f32"): 0.12, (1, "f32"): 0.11, (2, "bf16"): 0.1}, (1, "f32")),
        ({(2, "f32"): 0.2, (1, "f32"): 0.3, (2, "bf16"): 0.12, (1, "bf16"): 0.1}, (1, "bf16")),
        ({(2, "bf16"): 0.2, (1, "bf16"): 0.3}, (2, "bf16")),
    ],
)
def test_the_fastest_is_chosen_and_bfloat16_only_if_clearly_faster(seconds, chosen):
    assert speed.choose(seconds) == chosen


def test_fewer_threads_are_not_tried_where_a_step_is_long():
    asked = []

    def step(threads, precision):
        asked.append((threads, precision))
        return {"f32": 0.3, "bf16": 0.1}[precision]

    assert speed.measure(step, [2, 1], ["f32", "bf16"]) == {
        (2, "f32"): 0.3,
        (2, "bf16"): 0.1,
        (1, "bf16"): 0.1,
    }
    assert asked == [(2, "f32"), (2, "bf16"), (1, "bf16")]


def test_the_figures_are_told_where_there_was_a_choice():
    assert speed.described({(2, "f32"): 0.1}) == ""
    on_gpu = {(2, "f32"): 0.01234, (2, "bf16"): 0.5}
    assert speed.described(on_gpu, threads=False) == (
        " (measured for a step: f32 12.3 ms, bf16 500 ms)"
    )
    assert speed.described({(2, "f32"): 0.01234, (1, "bf16"): 0.5}) == (
        " (measured for a step: 2 threads f32 12.3 ms, 1 thread bf16 500 ms)"
    )


def test_a_forecast_is_the_sum_of_steps_validations_samples_and_saves():
    lengths = {"steps": 100, "eval_every": 30, "save_every": 50, "evaluated": 40}
    whole = lengths | {"validated": 1000}
    assert speed.whole_run(Costs(0.5), **whole) == 50
    assert speed.whole_run(Costs(0.0, validated=0.01), **whole) == 4 * 0.4 + 10
    assert speed.whole_run(Costs(0.0, sample=2.0), **whole) == 8
    assert speed.whole_run(Costs(0.0, save=3.0), **whole) == 2 * 3 + 4 * 1


def test_the_end_is_told_as_a_time_of_day():
    noon = time.mktime((2026, 3, 1, 12, 0, 0, 0, 0, 0))
    assert speed.finish(250.0, noon) == "done in about 4m10s, at 12:04"
    assert speed.finish(36 * 3600.0, noon) == "done in about 1d12h, at 00:00 on 2026-03-03"


@pytest.mark.parametrize("days", [366_000, 10**12])
def test_an_end_beyond_all_calendars_has_no_time_of_day(days):
    assert speed.finish(days * 86400.0, 1.8e9) == f"done in about {days}d00h"


def test_measuring_changes_no_weight_moment_or_counter(tmp_path):
    run = trainer(tmp_path, dropout=0.1)
    before = arrays_of(run)
    run.rehearse()
    run.rehearse_evaluation()
    assert same_bits(arrays_of(run), before)
    assert (run.optimizer.steps, run.counters.step) == (0, 0)
    other = trainer(tmp_path / "other", dropout=0.1)
    for one in (run, other):
        one.step(0.5)
    assert same_bits(arrays_of(run), arrays_of(other))


def test_what_was_chosen_is_recorded_and_kept_by_a_resumed_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed, "choose", lambda seconds: max(seconds))
    written(tmp_path / "s.txt")
    options = "--layers 1 --heads 2 --width 16 --context 16 --batch 4 --steps 4 --eval-every 2"
    assert minillm("train", "s.txt", "--out", "run", "--stop-after", 2, *options.split()) == 0
    chosen = "f32", kernels.threads()
    saved = json.loads((tmp_path / "run/training/settings.json").read_text(encoding="utf-8"))
    assert (saved["precision"], saved["threads"]) == chosen
    if kernels.cpu is not None and kernels.threads() > 1:
        assert "(measured for a step: " in capsys.readouterr().err
    monkeypatch.setattr(speed, "measure", None)
    assert minillm("train", "--resume", "run") == 0


def test_what_is_given_is_not_measured_against_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")
    options = "--layers 1 --heads 2 --width 16 --context 16 --batch 4 --steps 2 --threads 1"
    assert minillm("train", "s.txt", "--precision", "f32", *options.split()) == 0
    said = capsys.readouterr().err
    assert "measured for a step" not in said and ", f32\n" in said

"""The training loop: accumulation, schedules, clipping, dropout, evaluation, time budgets."""

import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest

from minillm.formats import safetensors
from minillm.models import GPT2
from minillm.optim import scheduled
from minillm.tensor import no_grad
from minillm.training import metrics
from minillm.training.run import Run
from small_runs import arrays_of, flags, minillm, same_bits, story, trainer, tree, written


class Rows:
    """Windows of 8 fixed rows, with as many targets ignored as `ignored(row)` says."""

    def __init__(self, vocab_size, context, ignored=lambda row: 0):
        rng = np.random.default_rng(0)
        self.inputs, self.targets = rng.integers(0, vocab_size, (2, 8, context))
        for row in range(8):
            self.targets[row, : ignored(row)] = -100

    def batch(self, first_sample, size):
        rows = np.arange(first_sample, first_sample + size) % 8
        return self.inputs[rows], self.targets[rows]


def with_rows(run, **options):
    task = run.objective
    task.windows = Rows(task.tokenizer.vocab_size, task.context, **options)
    return run


def step_and_gradients(run):
    """What a step measures, and the gradients it would update with."""
    found = {}

    def record(grad_scale=1.0):
        for name, parameter in run.model.named_parameters():
            found[name] = parameter.grad.numpy().astype(np.float64)

    run.optimizer.step = record
    return run.step(0.5), found


def losses_of_targets(run, inputs, targets):
    """Nats of each target that counts, from the logits, in float64; those of a row in a list."""
    run.model.eval()
    with no_grad():
        logits = run.model(inputs).numpy().astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return [
        [-row[place, target] for place, target in enumerate(wanted) if target != -100]
        for row, wanted in zip(logp, targets)
    ]


@pytest.mark.parametrize(
    "ignored", [lambda row: 0, lambda row: 2 * row + 1, lambda row: row // 7 * 16]
)
def test_accumulation_changes_neither_loss_nor_gradient(tmp_path, ignored):
    steps, gradients = [], []
    for batch, accumulate in ((8, 1), (4, 2), (2, 4), (1, 8)):
        folder = tmp_path / f"{batch}"
        run = with_rows(trainer(folder, batch=batch, accumulate=accumulate), ignored=ignored)
        step, found = step_and_gradients(run)
        steps.append(step)
        gradients.append(np.concatenate([grad.ravel() for grad in found.values()]))
    expected = losses_of_targets(run, *run.objective.windows.batch(0, 8))
    right = np.mean([nats for row in expected for nats in row])
    for step, gradient in zip(steps, gradients):
        assert step.loss == pytest.approx(right, rel=1e-6)
        assert step.grad_norm == pytest.approx(np.linalg.norm(gradients[0]), rel=1e-6)
        assert np.linalg.norm(gradient - gradients[0]) < 1e-6 * np.linalg.norm(gradients[0])


def test_a_mean_of_means_would_be_another_loss(tmp_path):
    run = with_rows(trainer(tmp_path, batch=1, accumulate=8), ignored=lambda row: 2 * row + 1)
    rows = losses_of_targets(run, *run.objective.windows.batch(0, 8))
    means = np.mean([np.mean(row) for row in rows])
    assert abs(run.step(0.5).loss / means - 1) > 1e-4


def test_a_step_without_any_target_is_refused(tmp_path):
    run = with_rows(trainer(tmp_path), ignored=lambda row: 16)
    with pytest.raises(ValueError, match="no target in 4 samples of a step, at least 1 is needed"):
        run.step(0.5)


def test_it_learns_a_text_that_repeats(tmp_path):
    run = trainer(tmp_path, "abcdefgh" * 60, steps=80, lr=0.01)
    first = run.step(0.1).loss
    for _ in range(79):
        last = run.step(0.1)
    assert first == pytest.approx(math.log(8), rel=0.05)
    assert last.loss < 0.1
    assert run.evaluate()["val_loss"] < 0.1


def test_rehearsal_leaves_no_trace(tmp_path):
    run = trainer(tmp_path, dropout=0.1, weight_decay=0.5)
    fresh = GPT2(run.model.config, seed=run.settings.seed)
    assert same_bits(run.model.state_dict(), fresh.state_dict())
    before, counters = arrays_of(run), repr(run.counters)
    assert run.rehearse() > 0
    assert same_bits(before, arrays_of(run))
    assert (run.optimizer.steps, repr(run.counters)) == (0, counters)
    other = trainer(tmp_path / "other", dropout=0.1, weight_decay=0.5)
    assert run.step(0.5) == other.step(0.5)
    assert same_bits(arrays_of(run), arrays_of(other))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("cosine", {0.0: 0, 0.05: 0.5, 0.1: 1, 0.55: 0.6, 1.0: 0.2}),
        ("linear", {0.0: 0, 0.05: 0.5, 0.1: 1, 0.325: 0.8, 0.55: 0.6, 1.0: 0.2}),
        ("constant", {0.0: 0, 0.05: 0.5, 0.1: 1, 0.55: 1, 1.0: 1}),
        ("wsd", {0.0: 0, 0.05: 0.5, 0.1: 1, 0.55: 1, 0.82: 1, 0.91: 0.6, 1.0: 0.2}),
    ],
)
def test_schedules(schedule, shares):
    for progress, share in shares.items():
        assert scheduled(progress, schedule, 0.1, 0.2) == pytest.approx(share, abs=1e-12)
        assert scheduled(progress, schedule, 0.0, 1.0) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("warmup", [0, 3])
def test_learning_rate_of_a_run_follows_the_schedule_to_its_end(tmp_path, monkeypatch, warmup):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")
    words = flags(steps=10, warmup=warmup, lr=0.5, final_lr=0.25, eval_every=1, clip=0.01)
    assert minillm("train", "s.txt", "--out", "run", *words) == 0
    rows = metrics.read(tmp_path / "run/metrics.jsonl")
    half = [(1 + math.cos(math.pi * (n - warmup) / (10 - warmup))) / 2 for n in range(1, 11)]
    expected = [
        0.5 * n / warmup if n < warmup else 0.125 + 0.375 * half[n - 1] for n in range(1, 11)
    ]
    assert [row["lr"] for row in rows] == pytest.approx(expected, rel=1e-12)
    assert rows[-1]["lr"] == 0.125


def test_clipping_limits_the_norm_of_the_update(tmp_path):
    norms = {}
    for clip in (0.0, 1e-3, 1e6):
        run = trainer(tmp_path / str(clip), clip=clip, beta1=0.75, optimizer="adamw")
        reported = run.step(0.5).grad_norm
        moments = np.concatenate([arrays["m"].ravel() for arrays in run.optimizer.state])
        norms[clip] = np.linalg.norm(moments.astype(np.float64)) / 0.25
        assert reported > 0.1
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-4)
    assert norms[0.0] == pytest.approx(reported, rel=1e-4)
    assert norms[1e6] == norms[0.0]


def test_dropout_differs_from_step_to_step_and_batch_to_batch_but_repeats(tmp_path):
    still = {"warmup": 1, "dropout": 0.5, "batch": 8}  # the rate is 0 at progress 0
    one, other = (with_rows(trainer(tmp_path / name, **still)) for name in "ab")
    losses = [one.step(0.0).loss for _ in range(3)]
    assert len(set(losses)) == 3
    assert [other.step(0.0).loss for _ in range(3)] == losses
    twice = with_rows(trainer(tmp_path / "c", accumulate=2, **still))
    assert twice.step(0.0).loss != pytest.approx(losses[0], rel=1e-6)  # were masks the same
    seeded = with_rows(trainer(tmp_path / "d", seed=1, **still))
    seeded.model.load_state_dict(twice.model.state_dict())
    assert seeded.step(0.0).loss != losses[0]
    without = with_rows(trainer(tmp_path / "e", **(still | {"dropout": 0.0})))
    assert without.step(0.0).loss == without.step(0.0).loss


def test_evaluation_and_samples_change_no_bit_of_the_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")
    for name, every, sampled in (("never", 12, 0), ("always", 1, 8)):
        words = flags(dropout=0.5, eval_every=every, sample_tokens=sampled, save_every=12)
        assert minillm("train", "s.txt", "--out", name, *words) == 0
    states = [
        safetensors.read(tmp_path / name / "training/state-00000012.safetensors")[0]
        for name in ("never", "always")
    ]
    assert same_bits(*states)
    rows = [metrics.read(tmp_path / name / "metrics.jsonl") for name in ("never", "always")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


def test_evaluation_is_the_mean_over_all_targets_and_bits_over_their_bytes(tmp_path):
    run = trainer(tmp_path, "мир и хлеб, сад и дом\n" * 40, dropout=0.5, val_fraction=0.3)
    ids = np.asarray(run.objective.dataset.val.ids, np.int64)
    nats = []
    for start in range(0, len(ids) - 1, 16):
        window = ids[start : start + 17]
        nats += losses_of_targets(run, window[None, :-1], window[None, 1:])[0]
    assert len(nats) == len(ids) - 1
    size = len(run.objective.tokenizer.decode(ids[1:]).encode("utf-8"))
    assert size > 1.5 * len(nats)
    measured = run.evaluate()
    bits = sum(nats) / math.log(2) / size
    assert measured == pytest.approx({"val_loss": np.mean(nats), "val_bpb": bits}, rel=1e-6)
    assert run.evaluate() == measured
    assert run.evaluate(64) == run.evaluate(64) != measured


class Clock:
    """Seconds that pass only when a trainer works."""

    def __init__(self, run, step, evaluation):
        self.now = 0.0
        work = {"step": step, "evaluate": evaluation, "save": 0.01}
        for name, seconds in work.items():
            setattr(run, name, self._timed(getattr(run, name), seconds))

    def perf_counter(self):
        return self.now

    def _timed(self, act, seconds):
        def timed(*arguments):
            self.now += seconds
            return act(*arguments)

        return timed


@pytest.mark.parametrize(
    ("budget", "step", "evaluation"),
    [(10.0, 0.3, 0.1), (10.0, 0.3, 0.9), (10.0, 0.013, 0.4), (1.0, 0.4, 0.0), (0.1, 0.4, 0.2)],
)
def test_a_time_budget_ends_the_schedule_where_it_ends(
    tmp_path, monkeypatch, budget, step, evaluation
):
    run = trainer(tmp_path, steps=None, time=budget, eval_every=7, sample_tokens=0, lr=0.5)
    clock = Clock(run, step, evaluation)
    monkeypatch.setattr("minillm.training.run.time", clock)
    run.step_seconds = step
    assert Run(run, print).train() == "done"
    rows = metrics.read(tmp_path / "run/metrics.jsonl")
    assert rows[-1]["step"] == run.counters.step
    assert rows[-1]["lr"] == 0.05
    rates = [row["lr"] for row in rows]
    assert rates == sorted(rates[: rates.index(max(rates))]) + sorted(
        rates[rates.index(max(rates)) :], reverse=True
    )
    if budget > 2 * (step + evaluation):
        assert budget - 2 * step - evaluation < clock.now <= budget + 0.1
    before = tree(tmp_path / "run/training")
    assert Run(run, print).train() == "done"  # nothing is left to do
    assert tree(tmp_path / "run/training") == before


def test_a_run_with_a_time_budget_ends_in_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt", story(60))
    words = flags(steps=None, time=2, eval_every=None, save_every=None, warmup=None)
    begin = time.perf_counter()
    assert minillm("train", "s.txt", "--out", "run", *words) == 0
    took = time.perf_counter() - begin
    rows = metrics.read(tmp_path / "run/metrics.jsonl")
    saved = json.loads((tmp_path / "run/training/settings.json").read_text(encoding="utf-8"))
    assert 1.0 < rows[-1]["elapsed_s"] < 3
    assert took < 10
    assert rows[-1]["lr"] == pytest.approx(0.1 * saved["lr"], rel=1e-12)
    assert (saved["time"], "steps" in saved, "warmup" in saved) == (2.0, False, False)
    before = SimpleNamespace(files=tree(tmp_path / "run/training"), rows=rows)
    assert minillm("train", "--resume", "run") == 0
    assert tree(tmp_path / "run/training") == before.files
    assert metrics.read(tmp_path / "run/metrics.jsonl") == before.rows

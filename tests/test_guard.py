"""The numerics guard: a step that is not finite changes nothing, and NaN is never the best."""

import json
import math
import operator

import numpy as np
import pytest

from minillm.formats import safetensors
from minillm.models import GPT2, folder
from minillm.op import Op
from minillm.training import metrics, run_folder
from minillm.training.trainer import Trainer
from small_runs import arrays_of, flags, minillm, same_bits, trainer, tree, written


class Faults:
    """Spoils what is computed in the steps named: `gradient` of ln_f, or `loss` of a batch.

    A value that is multiplied with the loss spoils all gradients too, one that is added does not.
    """

    def __init__(
        self, monkeypatch, gradient=(), loss=(), batch=0, value=math.nan, spoil=operator.mul
    ):
        self.gradient, self.loss, self.value = gradient, loss, value
        self.at = self.batch = self.backwards = -1
        whole_step, run_backward, model_loss = Trainer.step, Op.run_backward, GPT2.loss

        def step(run, *arguments):
            self.at, self.batch, self.backwards = run.counters.step + 1, -1, 0
            try:
                return whole_step(run, *arguments)
            finally:
                self.at = -1

        def backward(op, grad, saved, params, totals):
            grads = run_backward(op, grad, saved, params, totals)
            if op.name == "layer_norm":
                self.backwards += 1
                if self.at in self.gradient and self.backwards == 1:  # of the last layer
                    grads[1][3] = self.value
            return grads

        def loss_of(model, *arguments, **options):
            self.batch += 1
            found = model_loss(model, *arguments, **options)
            wrong = self.at in self.loss and self.batch == batch
            return spoil(found, self.value) if wrong else found

        monkeypatch.setattr(Trainer, "step", step)
        monkeypatch.setattr(Op, "run_backward", backward)
        monkeypatch.setattr(GPT2, "loss", loss_of)


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")

    def start_run(*words, **options):
        return minillm("train", "s.txt", "--out", "run", *flags(**options), *words)

    return start_run


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_skips_its_step_only(tmp_path, monkeypatch, value):
    Faults(monkeypatch, gradient={3}, value=value)
    run = trainer(tmp_path, dropout=0.1)
    for progress in (0.1, 0.2):
        run.step(progress)
    before, steps = arrays_of(run), run.optimizer.steps
    skipped = run.step(0.3)
    inputs, _ = run.objective.windows.batch(2 * 4, 4)
    text = run.objective.tokenizer.decode(inputs[0])
    assert skipped.skipped == f"gradient of ln_f.weight is not finite; batch begins {text!r}"
    assert not math.isfinite(skipped.grad_norm)
    assert same_bits(arrays_of(run), before)
    assert run.optimizer.steps == steps == 2
    place = run.counters
    assert (place.step, place.samples, place.skipped, place.skipped_in_a_row) == (3, 12, 1, 1)
    assert run.step(0.4).skipped is None
    assert (run.optimizer.steps, place.skipped, place.skipped_in_a_row) == (3, 1, 0)
    assert not same_bits(arrays_of(run), before)


def test_a_loss_that_is_not_finite_names_its_own_batch(tmp_path, monkeypatch):
    Faults(monkeypatch, loss={2}, batch=1)
    run = trainer(tmp_path, batch=2, accumulate=3)
    run.step(0.1)
    before = arrays_of(run)
    skipped = run.step(0.2)
    inputs, _ = run.objective.windows.batch(6 + 2, 2)  # the second batch of the second step
    assert skipped.skipped.endswith(f"batch begins {run.objective.tokenizer.decode(inputs[0])!r}")
    assert skipped.skipped.startswith("gradient of wte.weight is not finite; ")
    assert math.isnan(skipped.loss)
    assert same_bits(arrays_of(run), before)


def test_a_loss_alone_that_is_not_finite_skips_its_step(tmp_path, monkeypatch):
    Faults(monkeypatch, loss={1}, value=math.inf, spoil=operator.add)
    run = trainer(tmp_path)
    before = arrays_of(run)
    skipped = run.step(0.1)
    assert math.isfinite(skipped.grad_norm)
    assert skipped.skipped.startswith("the loss is inf; batch begins ")
    assert same_bits(arrays_of(run), before)


def test_a_run_goes_on_after_a_skipped_step_and_records_it(start, tmp_path, monkeypatch, capsys):
    Faults(monkeypatch, gradient={4, 9})
    assert start(steps=12, eval_every=4) == 0
    said = capsys.readouterr().err
    assert "step 4: skipped, gradient of ln_f.weight is not finite; batch begins '" in said
    assert "2 of 12 steps were skipped (see metrics.jsonl)\n" in said
    rows = metrics.read(tmp_path / "run/metrics.jsonl")
    reasons = {row["step"]: row["skipped"] for row in rows if "skipped" in row}
    assert list(reasons) == [4, 9]
    assert reasons[9].startswith("gradient of ln_f.weight is not finite; batch begins ")
    assert "grad_norm is nan" in reasons[9]
    assert all("grad_norm" not in row for row in rows if row["step"] in reasons)
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "Skipped steps" in page


def test_several_in_a_row_stop_the_run_and_the_last_good_save_goes_on(
    start, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        Faults(patch, gradient={*range(6, 13)})
        assert start(max_skips=3, save_every=1) == 1
    said = capsys.readouterr().err
    assert said.endswith(
        "stopped: 3 steps in a row not finite; run keeps the save of step 7; try a lower --lr\n"
    )
    assert metrics.read(tmp_path / "run/metrics.jsonl")[-1]["step"] == 8
    folder.load(tmp_path / "run")  # the best so far
    saved = [safetensors.verify(path)[0] for path in (tmp_path / "run/training").glob("state-*")]
    assert same_bits(*saved)  # skipped steps changed nothing
    assert minillm("train", "--resume", "run") == 0
    assert metrics.read(tmp_path / "run/metrics.jsonl")[-1]["step"] == 12


def test_skips_that_are_not_in_a_row_do_not_stop_it(start, monkeypatch):
    Faults(monkeypatch, gradient={2, 3, 5, 6, 8, 9, 11, 12})
    assert start(max_skips=3) == 0


def test_on_nan_stop_ends_at_the_first(start, tmp_path, monkeypatch, capsys):
    Faults(monkeypatch, loss={6})
    assert start(on_nan="stop") == 1
    assert capsys.readouterr().err.endswith(
        "stopped: 1 step in a row not finite; run keeps the save of step 4; try a lower --lr\n"
    )
    assert run_folder.resume(tmp_path / "run", print).counters.step == 4


def test_a_validation_loss_of_nan_is_never_the_best(start, tmp_path, monkeypatch):
    kept, evaluate = [], Trainer.evaluate

    def evaluated(run, *arguments):
        measured = evaluate(run, *arguments)
        if not run.counters.step:  # before the run the time of a validation is measured
            return measured
        path = tmp_path / "run/model.safetensors"
        kept.append(path.read_bytes() if path.exists() else None)
        return dict.fromkeys(measured, math.nan) if len(kept) in (1, 3, 4) else measured

    monkeypatch.setattr(Trainer, "evaluate", evaluated)
    assert start(steps=16, eval_every=4) == 0
    assert kept[1] is None  # after NaN as the very first
    assert kept[2] is not None
    assert kept[4] == kept[3] == kept[2]
    assert tree(tmp_path / "run")["model.safetensors"] == kept[2]
    assert run_folder.resume(tmp_path / "run", print).counters.best_step == 8


def test_a_last_loss_of_nan_is_told_in_strict_json(start, tmp_path, monkeypatch, capsys):
    wild = {"val_loss": math.nan, "val_bpb": math.inf}
    monkeypatch.setattr(Trainer, "evaluate", lambda run, limit=None: wild)
    assert start() == 1
    said = capsys.readouterr().err
    assert "loss nan, inf bits per byte" in said
    assert "stopped: the validation loss is not finite; run keeps the save of step 0" in said

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "run/training/facts.json").read_text(encoding="utf-8")
    result = json.loads(text, parse_constant=refuse)["result"]
    assert result["validation loss on all tokens"] == "nan"
    assert result["bits per byte"] == "inf"
    assert not (tmp_path / "run/model.safetensors").exists()  # nothing that can be used


def test_weights_that_are_not_finite_are_never_saved(start, tmp_path, monkeypatch, capsys):
    whole_step = Trainer.step

    def poisoned(run, *arguments):
        outcome = whole_step(run, *arguments)
        if run.counters.step == 5:
            run.model.h[0].mlp.c_fc.weight.data[1, 2] = np.inf
        return outcome

    monkeypatch.setattr(Trainer, "step", poisoned)
    assert start(save_every=1, eval_every=1, max_skips=4, sample_tokens=4) == 1
    said = capsys.readouterr().err
    assert "skipped, weight h.0.mlp.c_fc.weight holds a non-finite number; batch begins" in said
    assert "run keeps the save of step 4" in said
    saved = sorted((tmp_path / "run/training").glob("state-*"))
    assert [path.name[-14:-12] for path in saved] == ["03", "04"]
    for path in (*saved, tmp_path / "run/model.safetensors"):
        arrays, _ = safetensors.verify(path)
        assert all(np.isfinite(array).all() for array in arrays.values())


def test_an_absurd_learning_rate_ends_in_words(start, tmp_path, capsys):
    assert start(lr=1e38, clip=0, warmup=0, eval_every=1) == 1
    said = capsys.readouterr().err
    assert "step 1: no sample (sampling: the logits hold NaN" in said
    assert "Traceback" not in said
    assert said.endswith("run keeps the save of step 0; try a lower --lr\n")
    assert run_folder.resume(tmp_path / "run", print).weights_are_finite()


def test_a_rehearsal_that_is_not_finite_harms_nothing(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    before = arrays_of(run)
    loss = GPT2.loss
    monkeypatch.setattr(
        GPT2, "loss", lambda *inputs, **options: loss(*inputs, **options) * math.nan
    )
    run.rehearse()
    assert same_bits(arrays_of(run), before)


def test_a_run_whose_last_step_ruins_the_weights_is_no_success(start, tmp_path, capsys):
    assert start(lr=1e38, clip=0, warmup=0, steps=1, sample_tokens=0) == 1
    said = capsys.readouterr().err
    assert "stopped: " in said and "done: " not in said
    assert run_folder.resume(tmp_path / "run", print).counters.step == 0

"""A task that is no language model goes through the same loop, saves, records and report."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from minillm import nn, ops
from minillm.arrays import new_generator
from minillm.data.order import Order
from minillm.formats import safetensors
from minillm.training import metrics, state
from minillm.training.objective import Best, heading, phrase
from minillm.training.report import write_report
from minillm.training.run import Run
from minillm.training.settings import LoopSettings
from minillm.training.trainer import Trainer
from small_runs import same_bits


class Signs:
    """Which of two halves of a vector is larger: classification, decided by accuracy."""

    fingerprint = "s" * 64
    unit = "examples"
    best = Best("val_accuracy", highest=True)
    sample_tokens = 8.0

    def __init__(self, seed=0, accuracies=None):
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(40, 8)).astype(np.float32)
        self.y = (self.x[:, :4].sum(1) > self.x[:, 4:].sum(1)).astype(np.int64)
        self.order, self.accuracies = Order(32, seed), accuracies
        self.validation_size = 8

    def batch(self, first_sample, size):
        rows = self.order.samples(first_sample, size)
        return self.x[rows], self.y[rows]

    def tokens(self, batch):
        return batch[0].size

    def targets(self, batch):
        return len(batch[1])

    def loss(self, model, batch):
        return ops.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    def excerpt(self, batch):
        return f"{batch[0][0, 0]:.3f}"

    def evaluate(self, model, limit):
        x, y = self.x[32:], self.y[32:]
        logits = model(x)
        right = float((logits.numpy().argmax(-1) == y).mean())
        if self.accuracies:
            right = self.accuracies.pop(0)
        loss = ops.cross_entropy(logits, y, reduction="mean").item()
        return {"val_loss": loss, "val_accuracy": right}

    def sample(self, model, tokens):
        return None


def started(folder, objective, frozen=False, **options):
    (folder / "training").mkdir(parents=True, exist_ok=True)
    settings = LoopSettings(
        **{"batch": 4, "accumulate": 2, "steps": 12, "lr": 0.05, "warmup": 0, "eval_every": 3}
        | {"save_every": 5, "precision": "f32", "threads": 1}
        | options
    )
    generator = new_generator(1)
    model = nn.Sequential(
        nn.Linear(8, 16, generator=generator), nn.GELU(), nn.Dropout(0.1),
        nn.Linear(16, 2, generator=generator),
    )  # fmt: skip
    if frozen:
        model.parts[0].weight.requires_grad_(False)
    (folder / "training/facts.json").write_text('{"decides": ["val_accuracy", true]}')
    written = []

    def write(folder, model):
        written.append(trainer.counters.step)
        (folder / "model.txt").write_text(str(trainer.counters.step))

    trainer = Trainer(model, objective, settings, folder, write)
    return SimpleNamespace(trainer=trainer, written=written, folder=folder)


def weights(one):
    return {name: p.data.copy() for name, p in one.trainer.model.named_parameters()}


def test_it_learns_and_keeps_the_model_of_the_highest_metric(tmp_path):
    one = started(tmp_path, Signs(accuracies=[0.5, 0.9, 0.7, 0.9, 1.0]))
    assert Run(one.trainer, print).train() == "done"
    assert one.written == [3, 6]
    assert one.trainer.counters.best == 0.9
    assert one.trainer.counters.best_step == 6
    rows = metrics.read(tmp_path / "metrics.jsonl")
    assert [row["val_accuracy"] for row in rows if "val_accuracy" in row] == [0.5, 0.9, 0.7, 0.9]
    assert rows[-1]["tokens"] == 12 * 8 * 8
    result = json.loads((tmp_path / "training/facts.json").read_text())["result"]
    assert result["accuracy"] == 1.0
    assert "validation loss on all examples" in result
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "The best accuracy, 0.900, was at step 6." in page
    assert "Best accuracy" in page
    assert '<th scope="col">Accuracy</th>' in page


@pytest.mark.parametrize("cut", [1, 5, 7])
def test_a_cut_run_has_the_bits_of_a_straight_one(tmp_path, cut):
    straight = started(tmp_path / "straight", Signs())
    assert Run(straight.trainer, print).train() == "done"
    halves = started(tmp_path / "halves", Signs())
    assert Run(halves.trainer, print, cut).train() == "stopped"
    again = started(tmp_path / "halves", Signs())
    again.trainer.restore(state.load_latest(tmp_path / "halves/training")[0])
    assert again.trainer.counters.step == cut
    assert Run(again.trainer, print).train() == "done"
    assert same_bits(weights(straight), weights(again))


def test_what_requires_no_gradient_neither_moves_nor_is_saved(tmp_path):
    one = started(tmp_path, Signs(), frozen=True)
    before = weights(one)
    assert Run(one.trainer, print).train() == "done"
    after = weights(one)
    assert np.array_equal(before["0.weight"], after["0.weight"])
    assert not np.array_equal(before["0.bias"], after["0.bias"])
    saved, _ = safetensors.read(max((tmp_path / "training").glob("state-*")))
    assert {name.partition("/")[2] for name in saved} == {"0.bias", "3.weight", "3.bias"}
    again = started(tmp_path, Signs(), frozen=True)
    again.trainer.restore(state.load_latest(tmp_path / "training")[0])
    assert same_bits(weights(again), after)


def test_a_state_of_the_time_before_other_metrics_goes_on(tmp_path):
    one = started(tmp_path, Signs())
    one.trainer.step(0.1)
    path = one.trainer.save()
    arrays, metadata = safetensors.read(path)
    content = json.loads(metadata["minillm"])
    content["counters"]["best_val_loss"] = 2.5
    del content["counters"]["best"]
    safetensors.write(path, arrays, {"minillm": json.dumps(content)})
    found, _ = state.load_latest(tmp_path / "training")
    assert found.counters.best == 2.5


@pytest.mark.parametrize(
    ("best", "value", "before", "better"),
    [
        (Best(), 1.0, None, True),
        (Best(), 1.0, 1.0, False),
        (Best(), 0.9, 1.0, True),
        (Best("val_f1", True), 0.9, 1.0, False),
        (Best("val_f1", True), 1.1, 1.0, True),
        (Best(), float("nan"), None, False),
        (Best("val_f1", True), float("inf"), 1.0, False),
    ],
)
def test_what_is_better(best, value, before, better):
    assert best.improves(value, before) is better


def test_metrics_in_words():
    found = {"val_loss": 1.0, "val_bpb": 2.0, "val_exact_match": 0.5}
    assert phrase(found) == "loss 1.0000, 2.0000 bits per byte, exact match 0.5000"
    assert [heading(name) for name in found] == ["Validation loss", "Bits per byte", "Exact match"]

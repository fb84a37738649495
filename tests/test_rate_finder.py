"""The ramp of learning rates: where it is lowest, what it suggests, what it leaves behind."""

import math

import numpy as np
import pytest

from minillm.training import rate_finder
from minillm.training.settings import Settings
from minillm.training.trainer import Step
from small_runs import flags, minillm, trainer, tree, written


class Scripted:
    """A trainer whose loss is a function of the rate."""

    def __init__(self, loss):
        self.settings, self.loss, self.rates = Settings(), loss, []

    def step(self, progress):
        rate = self.settings.lr
        self.rates.append(rate)
        loss = self.loss(rate)
        return Step(loss, 1.0, rate, None if math.isfinite(loss) else "wild")


def ramp(loss):
    scripted = Scripted(loss)
    return rate_finder.ramp(scripted, lambda step, outcome: None), scripted


def test_rates_grow_by_one_factor_and_a_tenth_of_the_best_is_suggested():
    found, scripted = ramp(lambda rate: 2 + (math.log10(rate) + 2) ** 2 / 10)
    ratios = np.divide(scripted.rates[1:], scripted.rates[:-1])
    np.testing.assert_allclose(ratios, (1 / 1e-6) ** (1 / 119))
    assert scripted.rates[0] == 1e-6
    best = found.rates[found.lowest]
    assert 1e-2 <= best < 1e-1  # the lowest loss is at 1e-2; a running average lags behind it
    assert found.suggestion == pytest.approx(best / 10, rel=0.05)
    smooth, weight, last = 0.0, 0.0, []
    for loss in found.losses:
        smooth, weight = 0.9 * smooth + 0.1 * loss, 0.9 * weight + 0.1
        last.append(smooth / weight)
    np.testing.assert_allclose(found.smoothed, last)
    assert found.lowest == int(np.argmin(last))


@pytest.mark.parametrize("end", [math.inf, math.nan, 1e6])
def test_it_ends_where_the_loss_is_wild(end):
    found, scripted = ramp(lambda rate: 3 - rate if rate < 1e-2 else end)
    assert max(scripted.rates) < 2e-2
    assert found.rates[found.lowest] < 1e-2


def test_nothing_finite_is_an_error():
    with pytest.raises(ValueError, match="find-lr: 0 finite steps from a rate of 1e-06 on"):
        ramp(lambda rate: math.nan)


def test_the_command_leaves_a_page_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "s.txt")
    assert minillm("train", "s.txt", "--find-lr", "lr.html", *flags()) == 0
    assert set(tree(tmp_path)) == {"s.txt", "lr.html"}
    lines = capsys.readouterr().err.splitlines()
    said = lines[-1]
    unused = "--steps, --eval-every, --save-every"
    assert f"minillm: note: find-lr: the rates are tried without {unused}" in lines
    assert "is suggested: --lr " in said
    content = (tmp_path / "lr.html").read_text(encoding="utf-8")
    assert "<svg" in content
    assert "Learning rate" in content
    before = tree(tmp_path)
    assert minillm("train", "s.txt", "--find-lr", "lr.html", *flags()) == 2
    assert "find-lr: lr.html is there already" in capsys.readouterr().err
    for words, why in (
        (["--out", "x"], "find-lr: --out says nothing where no run is made"),
        (["--lr", 0.1], "find-lr: --lr says nothing"),
        (["--resume", "x"], "find-lr: --resume says nothing"),
        (["--track", "tensorboard"], "find-lr: --track says nothing"),
    ):
        assert minillm("train", "s.txt", "--find-lr", "other.html", *words) == 2
        assert why in capsys.readouterr().err
    assert minillm("train", "s.txt", "--find-lr", "none/lr.html") == 2
    assert "find-lr: none is no folder" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_the_same_ramp_twice_gives_the_same_bits(tmp_path):
    found = [
        rate_finder.ramp(trainer(tmp_path / name), lambda step, outcome: None) for name in "ab"
    ]
    assert np.array_equal(found[0].losses, found[1].losses)
    assert found[0].losses[-1] > found[0].smoothed.min()

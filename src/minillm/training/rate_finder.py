"""Looking for a learning rate: a short ramp of it, and where the loss fell (Smith 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from minillm.training import page
from minillm.training.curves import Chart, Curve, draw
from minillm.training.metrics import MovingAverage
from minillm.training.trainer import Step, Trainer

FIRST, LAST, STEPS = 1e-6, 1.0, 120
SMOOTHING = 0.9
DIVERGED = 1.5  # times the lowest smoothed loss: more of the ramp would tell nothing
SHARE = 10  # of the rate where the loss was lowest, what is suggested


class Found(NamedTuple):
    """Rates that were tried, the loss at each, smoothed, and the place where that was lowest."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    lowest: int

    @property
    def suggestion(self) -> float:
        return float(f"{self.rates[self.lowest] / SHARE:.1e}")


def ramp(trainer: Trainer, shown: Callable[[int, Step], None]) -> Found:
    """Train with a rate that grows from step to step until the loss does.

    The trainer is left at the end of that. ValueError where not even the first steps are finite.
    """
    rates, losses, smoothed = [], [], []
    average = MovingAverage(SMOOTHING)
    begun = trainer.settings
    for step in range(STEPS):
        rate = FIRST * (LAST / FIRST) ** (step / (STEPS - 1))
        trainer.settings = replace(
            begun, lr=rate, schedule="constant", steps=STEPS, warmup=0, time=None
        )
        outcome = trainer.step((step + 1) / STEPS)
        shown(step + 1, outcome)
        if outcome.skipped is not None:
            break
        rates.append(rate)
        losses.append(outcome.loss)
        smoothed.append(average.update(outcome.loss))
        if smoothed[-1] > DIVERGED * min(smoothed):
            break
    if len(rates) < 2:
        raise ValueError(
            f"find-lr: {len(rates)} finite steps from a rate of {FIRST:g} on, at least 2 are needed"
        )
    found = np.array(smoothed)
    return Found(np.array(rates), np.array(losses), found, int(found.argmin()))


def report(found: Found, name: str) -> str:
    """The page of a ramp."""
    steps = np.arange(1, len(found.rates) + 1, dtype=float)
    at = found.lowest + 1
    lowest = f"lowest at {found.rates[found.lowest]:.1e}"
    curves = [
        Curve("loss", "raw", steps, found.losses),
        Curve("loss, smoothed", "line", steps, found.smoothed),
    ]
    value = float(found.smoothed[found.lowest])
    charts = draw(Chart("Loss", "nats per token", curves, best=(at, value, lowest)))
    rates = [Curve("learning rate", "line", steps, found.rates)]
    charts += draw(Chart("Learning rate", "per step", rates, 120))
    rows = [
        (f"{rate:.1e}", f"{loss:.4f}", f"{smooth:.4f}")
        for rate, loss, smooth in zip(found.rates, found.losses, found.smoothed, strict=True)
    ]
    heads = ("Rate", "Loss", "Smoothed")
    body = (
        f"<header><p>Learning rates</p><h1>{page.text(name)}</h1>"
        f'<p class="lead">{page.text(sentence(found))}</p></header>\n'
        + page.section("Ramp", charts)
        + page.section("Steps", page.columns_table("Every step", heads, rows, style="numbers"))
    )
    return page.document(f"{name}: learning rates", body)


def sentence(found: Found) -> str:
    rate, value = found.rates[found.lowest], found.smoothed[found.lowest]
    ended = "where the ramp ended" if found.lowest == len(found.rates) - 1 else "then it rose"
    return (
        f"From {FIRST:g} on the loss fell to {value:.3f} at a rate of {rate:.1e}, {ended}; a tenth "
        f"of that is suggested: --lr {found.suggestion:g}"
    )

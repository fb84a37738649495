"""What a training run measured: `metrics.jsonl`, its running average and its summary."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path

from minillm.training import steplog
from minillm.training.objective import BY_LOSS, Best
from minillm.training.steplog import Row, StepLog

KEYS = (
    "step",  # optimiser steps taken
    "tokens",  # training tokens seen since step 0
    "loss",  # training loss of the step, nats per token
    "val_loss",  # validation loss, nats per token
    "val_bpb",  # validation loss, bits per byte of text
    "lr",  # learning rate of the step
    "grad_norm",  # norm of the whole gradient before clipping
    "tokens_per_s",  # training tokens per second of step time, smoothed over steps
    "elapsed_s",  # seconds trained
    "rss_mb",  # resident memory of the process, 10**6 bytes
    "device_mb",  # memory taken of the GPU at most, 10**6 bytes
)


VALIDATED = "val_"  # how names begin of what a validation measures


class MetricsLog(StepLog):
    """The append-only `metrics.jsonl`: one row a measured step, under the names in `KEYS`.

    What else a validation measures has a name that begins with "val_". A key not measured is
    absent. `skipped` holds the reason where the numerics guard left the
    step out. Starting, resuming and damage: see `StepLog`.
    """

    def append(self, *, step: int, **values: object) -> None:
        """Write one row. A NaN or infinite value is not JSON: `skipped` records it in words.

        TypeError for a name not in `KEYS` or a value of another kind.
        """
        skipped = values.pop("skipped", None)
        reasons = [str(skipped)] if skipped is not None else []
        row: dict[str, object] = {}
        for name, value in values.items():
            if name not in KEYS and not name.startswith(VALIDATED):
                raise TypeError(f"metrics: no key {name!r}, the keys are {', '.join(KEYS)}")
            if value is None:
                continue
            if not isinstance(value, Real) or isinstance(value, bool):
                raise TypeError(f"metrics: {name} is {value!r}, needs a number")
            if math.isfinite(value):
                row[name] = value
            else:
                reasons.append(f"{name} is {value}")
        super().append(step=step, **row, skipped="; ".join(reasons) or None)


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a `metrics.jsonl`; one torn last line is left out.

    ValueError, with the line number, for any other damage; FileNotFoundError if it is missing.
    """
    rows = steplog.read(path)
    for number, row in enumerate(rows, start=1):
        for key in row:
            if (key in KEYS or key.startswith(VALIDATED)) and not _is_finite_number(row[key]):
                raise ValueError(
                    f"{Path(path).name} line {number}: {key} is {row[key]!r}, needs a finite number"
                )
    return rows


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


class MovingAverage:
    """m = decay·m + (1 − decay)·x, read as m / (1 − decay^n): no bias towards the zero start.

    The correction is that of Adam (Kingma and Ba 2015, section 3). A value that is not finite
    leaves the average as it was; before the first finite value the average is NaN.
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"MovingAverage: decay {decay}, needs 0 <= decay < 1")
        self.decay = decay
        self._sum = 0.0
        self._weight = 0.0

    def update(self, x: float) -> float:
        """Take in `x` and return the average so far."""
        if math.isfinite(x):
            self._sum = self.decay * self._sum + (1 - self.decay) * x
            self._weight = self.decay * self._weight + (1 - self.decay)
        return self.value

    @property
    def value(self) -> float:
        """The average so far."""
        return self._sum / self._weight if self._weight else math.nan


@dataclass(frozen=True)
class Summary:
    """A run in a few numbers; None where nothing was measured. Units as in `KEYS`."""

    steps: int = 0
    tokens: int | None = None
    elapsed_s: float | None = None
    loss: float | None = None  # running average at the end
    final: Row | None = None  # the last row with a validation loss
    best: Row | None = None  # the earliest row with the best value of the metric that decides
    tokens_per_s: float | None = None  # median
    rss_mb: float | None = None  # highest seen
    skipped: list[Row] = field(default_factory=list)


def summarise(rows: Sequence[Row], best: Best = BY_LOSS) -> Summary:
    """The summary of `rows`, as `read` returns them; `best` says which metric decides."""
    if not rows:
        return Summary()
    evaluations = [row for row in rows if "val_loss" in row]
    speeds = _column(rows, "tokens_per_s")
    average = MovingAverage()
    for loss in _column(rows, "loss"):
        average.update(loss)
    return Summary(
        steps=rows[-1]["step"],
        tokens=max(_column(rows, "tokens"), default=None),
        elapsed_s=_total_elapsed(_column(rows, "elapsed_s")),
        loss=None if math.isnan(average.value) else average.value,
        final=evaluations[-1] if evaluations else None,
        best=_best(rows, best),
        tokens_per_s=statistics.median(speeds) if speeds else None,
        rss_mb=max(_column(rows, "rss_mb"), default=None),
        skipped=[row for row in rows if "skipped" in row],
    )


def _best(rows: Sequence[Row], best: Best) -> Row | None:
    sign = -1 if best.highest else 1
    measured = [row for row in rows if best.metric in row]
    return min(measured, key=lambda row: sign * row[best.metric], default=None)


def _column(rows: Sequence[Row], key: str) -> list:
    return [row[key] for row in rows if key in row]


def _total_elapsed(seconds: list[float]) -> float | None:
    """Seconds over all sittings: a clock that falls was started again by a resumed run."""
    total = previous = 0.0
    for now in seconds:
        total += now - previous if now >= previous else now
        previous = now
    return total if seconds else None

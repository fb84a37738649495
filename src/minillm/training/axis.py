"""Axes of a chart: the range, where a value lies in it, round ticks and their labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minillm.quantities import number

LOG_RATIO = 20  # from this ratio of highest to lowest on, a logarithmic axis
SMALLEST, LARGEST = 1e-300, 1e300  # the range an axis can be laid out in


@dataclass(frozen=True)
class Axis:
    """A range of values laid out from 0 to 1, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def fraction(self, value: np.ndarray | float) -> np.ndarray:
        """Where `value` lies, 0 at `low` and 1 at `high`; what no axis can hold lies at an end."""
        inside = np.clip(value, self.low, self.high)
        low, high, value = (self._inner(v) for v in (self.low, self.high, inside))
        return (value - low) / (high - low)

    def ticks(self, wanted: int = 5) -> list[float]:
        """At most about `wanted` round values inside the range."""
        if self.log:
            return _log_ticks(self.low, self.high, wanted)
        step = _round_step((self.high / wanted) - (self.low / wanted))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]

    def labels(self, ticks: Sequence[float]) -> list[str]:
        """The ticks in words, all to the same decimal place on a linear axis."""
        if self.log or len(ticks) < 2:
            return [number(tick) for tick in ticks]
        if not 1e-3 <= max(map(abs, ticks)) < 1e6:
            return [_scientific(tick) for tick in ticks]
        step = ticks[1] - ticks[0]
        decimals = next((d for d in range(12) if math.isclose(round(step, d), step)), 12)
        return [f"{tick:,.{decimals}f}" if tick else "0" for tick in ticks]

    def _inner(self, value: np.ndarray | float) -> np.ndarray:
        return np.log10(value) if self.log else np.asarray(value, dtype=np.float64)


def axis_around(low: float, high: float, *, from_zero: bool = False) -> Axis:
    """An axis that holds `low` to `high` and a little air; logarithmic over a factor of 20."""
    low, high = _within(low), _within(high)
    if from_zero and low >= 0:
        return Axis(0.0, min(high * 1.05, LARGEST) or 1.0)
    if low > 0 and high / LOG_RATIO > low:
        air = min(high / low, LARGEST) ** 0.04
        return Axis(max(low / air, SMALLEST), min(high * air, LARGEST), log=True)
    spread = high / 25 - low / 25
    air = spread if spread > 1e-9 * abs(high) else abs(high) / 20 or 0.5
    return Axis(max(low - air, -LARGEST), min(high + air, LARGEST))


def _within(value: float) -> float:
    return 0.0 if abs(value) < SMALLEST else max(-LARGEST, min(value, LARGEST))


def _scientific(value: float) -> str:
    power = math.floor(math.log10(abs(value))) if value else 0
    return f"{value / 10.0**power:.4g}e{power}" if value else "0"


def _round_step(step: float) -> float:
    """The nearest, by ratio, of 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return min((f * power for f in (1, 2, 2.5, 5, 10)), key=lambda r: abs(math.log(r / step)))


def _log_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Powers of ten; over few decades 1, 2 and 5 times them; fewer where they crowd."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if math.log10(high) - math.log10(low) < 2.5 else (1,)
    ticks = [float(f"{f}e{k}") for k in range(first, last + 1) for f in factors]
    inside = [t for t in ticks if low <= t <= high]
    return inside[:: math.ceil(len(inside) / (wanted + 2)) or 1]

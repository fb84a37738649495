"""What a step of sampling is, and the temperature.

A step takes the logits (V,) of the next token and gives new ones; -inf excludes a token. Penalties
look at the tokens of the text so far; filters only exclude, and never all.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy

from minillm.generation.sampling.seen import Seen

GREEDY_BELOW = 1e-5
MOST = sys.float_info.max


def number(name: str, value: Any, low: float, high: float, needed: str) -> float:
    """`value` as a float. ValueError where it is no number from low to high."""
    plain = value.item() if isinstance(value, numpy.generic) else value
    known = isinstance(plain, int | float) and not isinstance(plain, bool)
    if not known or not low <= plain <= high:
        raise ValueError(f"{name}: {value!r}, {needed} is needed")
    return float(plain)


def whole(name: str, value: Any, needed: str) -> int:
    """`value` as an int. ValueError where it is no whole number of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int | numpy.integer) or value < 0:
        raise ValueError(f"{name}: {value!r}, {needed} is needed")
    return int(value)


class Step:
    """`step(logits, seen)` gives the new logits, float64 (V,); nothing is written to."""

    name: ClassVar[str]

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return True

    def __call__(self, logits: numpy.ndarray, seen: Seen | None = None) -> numpy.ndarray:
        raise NotImplementedError


@dataclass(frozen=True)
class Temperature(Step):
    """logits / temperature: probabilities to the power of 1/temperature, normalised."""

    name: ClassVar[str] = "temperature"
    temperature: float

    def __post_init__(self) -> None:
        needed = f"a number of {GREEDY_BELOW} or more"
        number("temperature", self.temperature, GREEDY_BELOW, MOST, needed)

    def __call__(self, logits: numpy.ndarray, seen: Seen | None = None) -> numpy.ndarray:
        logits = numpy.asarray(logits, numpy.float64)
        if self.temperature == 1:
            return logits
        with numpy.errstate(over="ignore"):
            scaled = logits / self.temperature
            if not math.isfinite(scaled.max()):  # only float64 logits reach so far
                scaled = (logits - logits.max()) / self.temperature
        return scaled

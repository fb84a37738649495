"""From logits to one token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy

GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class Sampler:
    """Temperature, then top-k, then top-p; each only narrows. ValueError for impossible values.

    temperature 0 (or below 1e-5) takes the most probable token, the lowest id on ties. top_k 0 and
    top_p 1 keep all. The nucleus (Holtzman et al. 2020) is the shortest list of the most probable
    tokens whose mass before its last member is below top_p: never empty.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature: {self.temperature}, a number of 0 or more is needed")
        if self.top_k < 0:
            raise ValueError(f"top-k: {self.top_k}, 0 (all) or more is needed")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top-p: {self.top_p}, 0 <= p <= 1 is needed")

    def probabilities(self, logits: numpy.ndarray) -> numpy.ndarray:
        """The distribution (V,) in float64 that `pick` draws from."""
        logits = numpy.asarray(logits, numpy.float64)
        if not math.isfinite(logits.max()):  # NaN if there is any
            raise ValueError("sampling: the logits hold NaN, infinity or no finite value")
        if self.temperature < GREEDY_BELOW:
            chosen = numpy.zeros(logits.shape)
            chosen[int(logits.argmax())] = 1.0
            return chosen
        scaled = (logits - logits.max()) / self.temperature
        order = numpy.argsort(-scaled, kind="stable")
        if self.top_k:
            order = order[: self.top_k]
        kept = numpy.exp(scaled[order])
        kept /= kept.sum()
        if self.top_p < 1:
            before = numpy.cumsum(kept) - kept
            kept[(before >= self.top_p) & (numpy.arange(len(kept)) > 0)] = 0.0
        out = numpy.zeros(logits.shape)
        out[order] = kept / kept.sum()
        return out

    def pick(self, logits: numpy.ndarray, generator: numpy.random.Generator) -> int:
        """Draw one id from logits (V,)."""
        probabilities = self.probabilities(logits)
        if self.temperature < GREEDY_BELOW:
            return int(probabilities.argmax())
        total = numpy.cumsum(probabilities)
        place = numpy.searchsorted(total, generator.random() * total[-1], side="right")
        return int(min(place, numpy.flatnonzero(probabilities)[-1]))

"""Filters: they exclude tokens, never all, and leave the logits of the others as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy

from minillm.generation.sampling.choosing import ENOUGH, first_mass, largest
from minillm.generation.sampling.likelihood import checked
from minillm.generation.sampling.seen import Seen
from minillm.generation.sampling.steps import MOST, Step, number, whole


class Filter(Step):
    """A step that excludes tokens and leaves the others' logits as they are."""

    def __call__(self, logits: numpy.ndarray, seen: Seen | None = None) -> numpy.ndarray:
        logits = checked(logits).astype(numpy.float64)
        left = numpy.full(logits.shape, -math.inf)
        places = self.kept(logits)
        left[places] = logits[places]
        return left

    def kept(self, logits: numpy.ndarray) -> numpy.ndarray:
        """Places (n,) that stay, ascending; at least 1, and none of those at -inf."""
        with numpy.errstate(over="ignore"):  # further apart than float64 reaches: probability 0
            if logits.min() > -math.inf:
                return self.chosen(logits) if self.active else numpy.arange(len(logits))
            places = numpy.flatnonzero(logits > -math.inf)
            return places[self.chosen(logits[places])] if self.active else places

    def chosen(self, logits: numpy.ndarray) -> numpy.ndarray:
        """The same for logits (n,) without -inf, where it is active."""
        raise NotImplementedError


@dataclass(frozen=True)
class Greedy(Filter):
    """The most probable token alone, the lowest id of equals: the limit of temperature 0."""

    name: ClassVar[str] = "greedy"

    def chosen(self, logits: numpy.ndarray) -> numpy.ndarray:
        return numpy.array([logits.argmax()])


@dataclass(frozen=True)
class TopK(Filter):
    """The k most probable tokens, the lowest ids of equals (Fan et al. 2018). 0 keeps all."""

    name: ClassVar[str] = "top_k"
    k: int

    def __post_init__(self) -> None:
        whole("top-k", self.k, "0 (all) or more")

    @property
    def active(self) -> bool:
        return self.k != 0

    def chosen(self, logits: numpy.ndarray) -> numpy.ndarray:
        return largest(logits, self.k)


@dataclass(frozen=True)
class TopP(Filter):
    """The nucleus: the most probable tokens, each while the mass before it is below p.

    Holtzman et al. 2020, section 3.1: the smallest set whose mass is at least p. 1 keeps all.
    """

    name: ClassVar[str] = "top_p"
    p: float

    def __post_init__(self) -> None:
        number("top-p", self.p, 0, 1, "0 <= p <= 1")

    @property
    def active(self) -> bool:
        return self.p < 1

    def chosen(self, logits: numpy.ndarray) -> numpy.ndarray:
        behind = logits.max() - logits
        return first_mass(behind, _exp_of_minus(behind), self.p)


@dataclass(frozen=True)
class MinP(Filter):
    """The tokens at least p times as probable as the most probable one.

    Nguyen et al. 2024, section 3. 0 keeps all, 1 those that tie for the first place.
    """

    name: ClassVar[str] = "min_p"
    p: float

    def __post_init__(self) -> None:
        number("min-p", self.p, 0, 1, "0 <= p <= 1")

    @property
    def active(self) -> bool:
        return self.p > 0

    def chosen(self, logits: numpy.ndarray) -> numpy.ndarray:
        return numpy.flatnonzero(logits - logits.max() >= math.log(self.p * ENOUGH))


@dataclass(frozen=True)
class Typical(Filter):
    """The tokens whose surprise is nearest to the expected one, until their mass reaches p.

    |-log p(token) - H|, H = -sum p log p the entropy (Meister et al. 2023). 1 keeps all.
    """

    name: ClassVar[str] = "typical"
    p: float

    def __post_init__(self) -> None:
        number("typical", self.p, 0, 1, "0 <= p <= 1")

    @property
    def active(self) -> bool:
        return self.p < 1

    def chosen(self, logits: numpy.ndarray) -> numpy.ndarray:
        behind = numpy.minimum(logits.max() - logits, MOST)
        weights = _exp_of_minus(behind)
        expected = (weights * behind).sum() / weights.sum()  # no dot: its sum depends on threads
        return first_mass(abs(behind - expected), weights, self.p)  # -log p = behind + a constant


def _exp_of_minus(values: numpy.ndarray) -> numpy.ndarray:
    weights = numpy.negative(values)
    return numpy.exp(weights, out=weights)

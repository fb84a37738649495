"""Penalties: they change the logits of the tokens that the text already holds."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy

from minillm.generation.sampling.seen import Seen
from minillm.generation.sampling.steps import MOST, Step, number


class Penalty(Step):
    """A step that looks at the text so far. ValueError without it."""

    def __call__(self, logits: numpy.ndarray, seen: Seen | None = None) -> numpy.ndarray:
        changed = numpy.array(logits, numpy.float64)
        self.change(changed, seen)
        return changed

    def change(self, logits: numpy.ndarray, seen: Seen | None) -> None:
        """The same in place: a text holds few of the tokens."""
        if seen is None:
            raise ValueError(
                f"{self.name.replace('_', '-')}: the tokens of the text so far are needed, none "
                "were given; pass seen=Seen(prompt_ids)"
            )
        ids, counts = seen.among(len(logits))
        logits[ids] = self.penalised(logits[ids], counts)

    def penalised(self, logits: numpy.ndarray, counts: numpy.ndarray) -> numpy.ndarray:
        """The new logits (n,) of tokens of the text, each generated `counts` times."""
        raise NotImplementedError


@dataclass(frozen=True)
class RepetitionPenalty(Penalty):
    """logit / penalty where it is positive, logit * penalty else, for prompt and generated tokens.

    Keskar et al. 2019 (CTRL), section 4.1, with the sign handled as transformers does. 1 is off.
    """

    name: ClassVar[str] = "repetition_penalty"
    penalty: float

    def __post_init__(self) -> None:
        least = sys.float_info.min
        needed = f"a finite number of {least:.1e} or more"
        number("repetition-penalty", self.penalty, least, MOST, needed)

    @property
    def active(self) -> bool:
        return self.penalty != 1

    def penalised(self, logits: numpy.ndarray, counts: numpy.ndarray) -> numpy.ndarray:
        with numpy.errstate(over="ignore"):
            changed = numpy.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return numpy.where(numpy.isinf(logits), logits, numpy.clip(changed, -MOST, MOST))


@dataclass(frozen=True)
class FrequencyPenalty(Penalty):
    """logit - penalty * (how often the token was generated); the prompt does not count.

    As in OpenAI's API and vLLM. 0 is off, below 0 invites repetition.
    """

    name: ClassVar[str] = "frequency_penalty"
    penalty: float

    def __post_init__(self) -> None:
        number("frequency-penalty", self.penalty, -2, 2, "a number from -2 to 2")

    @property
    def active(self) -> bool:
        return self.penalty != 0

    def penalised(self, logits: numpy.ndarray, counts: numpy.ndarray) -> numpy.ndarray:
        return logits - self.penalty * counts


@dataclass(frozen=True)
class PresencePenalty(Penalty):
    """logit - penalty for every token that was generated; the prompt does not count.

    As in OpenAI's API and vLLM. 0 is off, below 0 invites repetition.
    """

    name: ClassVar[str] = "presence_penalty"
    penalty: float

    def __post_init__(self) -> None:
        number("presence-penalty", self.penalty, -2, 2, "a number from -2 to 2")

    @property
    def active(self) -> bool:
        return self.penalty != 0

    def penalised(self, logits: numpy.ndarray, counts: numpy.ndarray) -> numpy.ndarray:
        return logits - self.penalty * (counts > 0)

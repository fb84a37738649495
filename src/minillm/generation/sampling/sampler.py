"""The sampler: steps in one order, then one draw."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import NamedTuple

import numpy

from minillm.generation.sampling.choosing import draw_place, largest
from minillm.generation.sampling.filters import Filter, Greedy, MinP, TopK, TopP, Typical
from minillm.generation.sampling.likelihood import checked
from minillm.generation.sampling.penalties import (
    FrequencyPenalty,
    Penalty,
    PresencePenalty,
    RepetitionPenalty,
)
from minillm.generation.sampling.seen import Seen
from minillm.generation.sampling.steps import GREEDY_BELOW, MOST, Step, Temperature, number

State = tuple[str, numpy.ndarray | None, numpy.ndarray]  # after what, ids or all, their logits


class Explained(NamedTuple):
    """What one step did: the distribution, float64 (V,), before and after it."""

    name: str
    before: numpy.ndarray
    after: numpy.ndarray

    @property
    def kept(self) -> int:
        """How many tokens can be drawn after it."""
        return int(numpy.count_nonzero(self.after))


@dataclass(frozen=True)
class Sampler:
    """Draws the next token from logits (V,), through `steps` in this order:

    `allowed` (a constraint's mask), repetition, frequency and presence penalty, temperature, top-k,
    top-p, min-p, typical. The order is that of transformers. Each filter works on the distribution
    that the steps before it left, and keeps at least one token. Only steps that change something
    are in `steps`; temperature 0 (or below 1e-5) takes the most probable token, the lowest id of
    equals, in place of all that would follow. The formulas and their sources stand with the steps,
    in `steps`, `penalties` and `filters`. ValueError for impossible values.

    One `generator.random()` a token, none for the greedy choice: a text depends on its own
    generator and on nothing else.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    _: KW_ONLY
    min_p: float = 0.0
    typical: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    steps: tuple[Step, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        number("temperature", self.temperature, 0, MOST, "a finite number of 0 or more")
        penalties = (
            RepetitionPenalty(self.repetition_penalty),
            FrequencyPenalty(self.frequency_penalty),
            PresencePenalty(self.presence_penalty),
        )
        narrow = (TopK(self.top_k), TopP(self.top_p), MinP(self.min_p), Typical(self.typical))
        rest: tuple[Step, ...] = (Greedy(),)
        if not self.greedy:
            rest = (Temperature(self.temperature), *(step for step in narrow if step.active))
        steps = *(step for step in penalties if step.active), *rest
        object.__setattr__(self, "steps", steps)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken, without a draw."""
        return self.temperature < GREEDY_BELOW

    @property
    def needs_seen(self) -> bool:
        """Whether a penalty looks at the tokens so far, so that `seen` must be given."""
        return isinstance(self.steps[0], Penalty)

    def probabilities(
        self,
        logits: numpy.ndarray,
        seen: Seen | None = None,
        allowed: numpy.ndarray | None = None,
    ) -> numpy.ndarray:
        """The distribution (V,) in float64 that `pick` draws from."""
        ids, values = self._last(logits, seen, allowed)
        return _distribution(ids, values, len(logits))

    def pick(
        self,
        logits: numpy.ndarray,
        generator: numpy.random.Generator,
        seen: Seen | None = None,
        allowed: numpy.ndarray | None = None,
    ) -> int:
        """Draw one id from logits (V,).

        `seen`: the tokens so far, needed where there is a penalty. `allowed`: bool (V,), False for
        what must not come. NotFinite for logits that hold NaN, +inf or no finite value,
        ValueError where no token is allowed.
        """
        if self.greedy and allowed is None and not self.needs_seen:
            return _most_probable(logits)
        ids, values = self._last(logits, seen, allowed)
        place = 0
        if not self.greedy:
            weights = values - values.max()
            numpy.cumsum(numpy.exp(weights, out=weights), out=weights)
            place = draw_place(weights, generator)
        return place if ids is None else int(ids[place])

    def explain(
        self,
        logits: numpy.ndarray,
        seen: Seen | None = None,
        allowed: numpy.ndarray | None = None,
    ) -> list[Explained]:
        """What each step does to the distribution, in their order; the first may be "allowed".

        The first `before` is the model's own distribution, the last `after` that of
        `probabilities`.
        """
        logits = checked(logits)
        ids = None if allowed is None else _allowed_ids(logits, allowed)
        before = _distribution(None, _wide(logits, None), len(logits))
        explained: list[Explained] = []
        states = self._states(logits, seen, ids)
        if ids is not None:
            states = itertools.chain([("allowed", ids, _wide(logits, ids))], states)
        for name, left, values in states:
            after = _distribution(left, values, len(logits))
            explained.append(Explained(name, before, after))
            before = after
        return explained

    def _last(
        self, logits: numpy.ndarray, seen: Seen | None, allowed: numpy.ndarray | None
    ) -> tuple[numpy.ndarray | None, numpy.ndarray]:
        """What is left after all steps: ids (None for all) and their logits."""
        logits = checked(logits)
        start = None if allowed is None else _allowed_ids(logits, allowed)
        if start is None and logits.dtype == numpy.float32 and _begins_with_top_k(self.steps):
            start = largest(logits, self.top_k)  # the same before the temperature, with less to do
        _, ids, values = deque(self._states(logits, seen, start), 1).pop()
        return ids, values

    def _states(
        self, logits: numpy.ndarray, seen: Seen | None, ids: numpy.ndarray | None
    ) -> Iterator[State]:
        """What is left after each step, beginning with `ids` (None for all). Look at once."""
        if self.needs_seen:
            logits = logits.astype(numpy.float64)
        values = _wide(logits, ids)
        for step in self.steps:
            if isinstance(step, Penalty):  # they go by id and token by token: narrowed afterwards
                step.change(logits, seen)
                values = _wide(logits, ids)
            elif isinstance(step, Filter):
                places = step.kept(values)
                if len(places) < len(values):
                    ids, values = places if ids is None else ids[places], values[places]
            else:
                values = step(values)
            yield step.name, ids, values


def _allowed_ids(logits: numpy.ndarray, allowed: numpy.ndarray) -> numpy.ndarray:
    allowed = numpy.asarray(allowed)
    if allowed.dtype != bool or allowed.shape != logits.shape:
        raise ValueError(
            f"sampling: allowed is {allowed.dtype} {allowed.shape}, bool {logits.shape} as the "
            "logits is needed"
        )
    ids = numpy.flatnonzero(allowed)
    if not len(ids) or logits[ids].max() == -math.inf:
        raise ValueError(
            f"sampling: of {len(ids)} allowed tokens none has a finite logit, at least 1 is needed"
        )
    return ids


def _begins_with_top_k(steps: tuple[Step, ...]) -> bool:
    return isinstance(steps[0], Temperature) and isinstance(steps[1:] and steps[1], TopK)


def _wide(logits: numpy.ndarray, ids: numpy.ndarray | None) -> numpy.ndarray:
    return numpy.asarray(logits if ids is None else logits[ids], numpy.float64)


def _most_probable(logits: numpy.ndarray) -> int:
    logits = numpy.asarray(logits)
    place = int(logits.argmax()) if logits.ndim == 1 and logits.size else 0  # of NaN if any is
    if logits.ndim != 1 or not logits.size or not math.isfinite(logits[place]):
        checked(logits)  # says what is wrong
    return place


def _distribution(ids: numpy.ndarray | None, values: numpy.ndarray, size: int) -> numpy.ndarray:
    """softmax of `values` in its place among `size` tokens."""
    with numpy.errstate(over="ignore"):  # further apart than float64 reaches: probability 0
        kept = numpy.exp(values - values.max())
    kept /= kept.sum()
    if ids is None:
        return kept
    spread = numpy.zeros(size)
    spread[ids] = kept
    return spread

"""Beam search: the most probable texts, as far as a few beams can see."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import numpy

from minillm.generation.reading import Reader, Reading
from minillm.generation.sampling import log_probabilities

EarlyStopping = bool | Literal["never"]


class Hypothesis(NamedTuple):
    """A text that beam search found.

    ids                what follows the prompt, the end token (where it was reached) included
    score              sum of log_probabilities / len(ids)**length_penalty
    log_probabilities  of each id given all before it, in nats, among the ids that may be drawn
    finished           whether it ended with an end token, or where a constraint was met if there
                       is none; else max_tokens cut it
    """

    ids: list[int]
    score: float
    log_probabilities: list[float]
    finished: bool


class _Beam(NamedTuple):
    """A text that goes on."""

    reading: Reading
    constraint: Any
    ids: list[int]
    log_probabilities: list[float]
    total: float


class _Step(NamedTuple):
    """A beam (by its place) and an id that may follow it."""

    total: float
    parent: int
    id: int
    log_probability: float


def beam_search(
    reader: Reader,
    prompt: Sequence[int],
    *,
    source: Sequence[int] | None = None,
    beams: int,
    max_tokens: int,
    ends: Collection[int],
    length_penalty: float = 1.0,
    n: int = 1,
    vocab_size: int | None = None,
    early_stopping: EarlyStopping = False,
    allowed: Any = None,
) -> list[Hypothesis]:
    """The `n` best of the texts that `beams` beams find after `prompt`, best first.

    A text's score is the sum of its log-probabilities / length**length_penalty; the length counts
    the generated ids, the end token among them, not the prompt: above 0 longer texts are favoured,
    below 0 shorter ones. Texts of max_tokens ids count although they did not end. Each step keeps
    the `beams` best texts that go on; one that ends counts if it is among the `beams` best of its
    step. This, and when it stops once `beams` texts have ended, is as in transformers:

    early_stopping=True     at once
    early_stopping=False    when the best beam, divided by its present length, is no better than the
                            worst of them. It may miss a longer text where length_penalty > 0
    early_stopping="never"  when no continuation could be better: log-probabilities only fall

    One beam is greedy search: it stops at its end. Ties go to the better beam, then to the lowest
    id. Ids from `vocab_size` on are never chosen, nor those that a constraint's state, `allowed`,
    forbids; what it forbids leaves the log-probabilities of the others as they are. There are fewer
    than `n` where fewer texts exist; none is there twice. An encoder-decoder is given its `source`,
    and a prompt that continues its start ids.

    ValueError for numbers that make no sense, for more tokens than the context holds, or logits
    that are not finite.
    """
    _check(beams, n, max_tokens, length_penalty, early_stopping)
    first = [*reader.start_ids, *prompt]
    if reader.context is not None and len(first) + max_tokens - 1 > reader.context:
        raise ValueError(
            f"beam search: {len(first)} tokens and {max_tokens} to come, the model's context is "
            f"{reader.context}; lower max-tokens"
        )
    if not max_tokens:
        return [Hypothesis([], 0.0, [], False)]
    found: list[Hypothesis] = []
    running = [_Beam(reader.begin(source), allowed, [], [], 0.0)]
    rows = reader.read([(running[0].reading, first)])
    for length in range(1, max_tokens + 1):
        steps = _steps(running, rows, vocab_size, beams, ends, max_tokens - length + 1)
        if not steps and not found:
            raise ValueError("beam search: no token may follow, at least one is needed")
        goes_on = []
        for rank, step in enumerate(steps):
            ended = step.id in ends or (not ends and _closes(running[step.parent], step))
            if not ended and length < max_tokens:
                goes_on.append(step)
            elif rank < beams:
                found.append(_hypothesis(running[step.parent], step, length_penalty, ended))
        found = sorted(found, key=lambda text: text.score, reverse=True)[:beams]
        goes_on = goes_on[:beams]
        if not goes_on or (
            len(found) == beams
            and _settled(
                found[-1].score,
                goes_on[0].total,
                length,
                max_tokens,
                length_penalty,
                beams == 1 or early_stopping,
            )
        ):
            break
        running = _followed(running, goes_on)
        rows = reader.read([(beam.reading, beam.ids[-1:]) for beam in running])
    return found[:n]


def _check(beams: int, n: int, max_tokens: int, penalty: float, early: EarlyStopping) -> None:
    if beams < 1:
        raise ValueError(f"beams: {beams}, 1 or more is needed")
    if not 1 <= n <= beams:
        raise ValueError(f"n: {n} of {beams} beams, 1 to {beams} is needed")
    if max_tokens < 0:
        raise ValueError(f"max-tokens: {max_tokens}, 0 or more is needed")
    if early not in (True, False, "never"):
        raise ValueError(f"early-stopping: {early!r}, True, False or 'never' is needed")
    exponent = abs(penalty) * math.log10(max(1, max_tokens))
    if not exponent < 300:  # NaN too
        raise ValueError(
            f"length-penalty: {penalty}, a number for which {max_tokens} ** length-penalty is "
            "finite is needed"
        )


def _settled(
    worst: float, best: float, length: int, longest: int, penalty: float, early: EarlyStopping
) -> bool:
    """Whether `beams` texts of scores from `worst` up suffice, the best beam's sum being `best`."""
    if early is True:
        return True
    reach = longest if early == "never" and penalty > 0 else length
    return best / reach**penalty <= worst


def _steps(
    running: list[_Beam],
    rows: list[numpy.ndarray],
    vocab_size: int | None,
    beams: int,
    ends: Collection[int],
    remaining: int,
) -> list[_Step]:
    """The best steps, best first: `beams` that go on are among them, if there are as many."""
    own = [log_probabilities(row[:vocab_size]) for row in rows]
    totals = numpy.stack([beam.total + row for beam, row in zip(running, own)])
    for place, beam in enumerate(running):
        if beam.constraint is not None:
            totals[place, ~beam.constraint.allowed(remaining)[: totals.shape[1]]] = -math.inf
    flat = totals.reshape(-1)
    count = beams * (1 + sum(0 <= end < totals.shape[1] for end in ends))
    least = numpy.partition(flat, -count)[-count] if count < len(flat) else -math.inf
    places = numpy.flatnonzero((flat >= least) & (flat > -math.inf))
    places = places[numpy.argsort(-flat[places], kind="stable")][:count]
    parents, ids = numpy.divmod(places, totals.shape[1])
    return [
        _Step(float(totals[parent, id]), int(parent), int(id), float(own[parent][id]))
        for parent, id in zip(parents, ids)
    ]


def _closes(beam: _Beam, step: _Step) -> bool:
    """Whether the constraint wants no more after this step, where no token could say so."""
    if beam.constraint is None:
        return False
    after = beam.constraint.fork()
    after.advance(step.id)
    return bool(after.finished)


def _hypothesis(beam: _Beam, step: _Step, penalty: float, ended: bool) -> Hypothesis:
    ids = [*beam.ids, step.id]
    score = step.total / len(ids) ** penalty
    return Hypothesis(ids, score, [*beam.log_probabilities, step.log_probability], ended)


def _followed(running: list[_Beam], steps: list[_Step]) -> list[_Beam]:
    """The beams after these steps. The last step of each beam takes its reading, others a copy."""
    last = {step.parent: place for place, step in enumerate(steps)}
    followed = []
    for place, step in enumerate(steps):
        beam = running[step.parent]
        reading, constraint = beam.reading, beam.constraint
        if last[step.parent] != place:
            reading = reading.fork()
            constraint = constraint and constraint.fork()
        if constraint is not None:
            constraint.advance(step.id)
        ids = [*beam.ids, step.id]
        values = [*beam.log_probabilities, step.log_probability]
        followed.append(_Beam(reading, constraint, ids, values, step.total))
    return followed

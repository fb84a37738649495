"""Beam search: the most probable texts, as far as a few beams can see."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import numpy

from minillm.generation.reading import Reader, Reading
from minillm.generation.sampling import log_probabilities
from minillm.quantities import counted

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


class _Rules(NamedTuple):
    """What a search is asked for."""

    beams: int
    longest: int
    ends: Collection[int]
    penalty: float
    early: EarlyStopping
    vocab_size: int | None


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
            f"beam search: {counted(len(first), 'token')} and {max_tokens:,} to come, the model's "
            f"context is {reader.context:,}; lower max-tokens"
        )
    if not max_tokens:
        return [Hypothesis([], 0.0, [], False)]
    early = beams == 1 or early_stopping
    rules = _Rules(beams, max_tokens, ends, length_penalty, early, vocab_size)
    reading = reader.begin(source)
    row = reader.read([(reading, first)])[0]
    return _searched(reader, _Beam(reading, allowed, [], [], 0.0), row, rules)[:n]


def _searched(reader: Reader, beam: _Beam, row: numpy.ndarray, rules: _Rules) -> list[Hypothesis]:
    """The best texts that begin with a beam after which the logits are `row`, best first."""
    found: list[Hypothesis] = []
    running, rows = [beam], [row]
    for length in range(1, rules.longest + 1):
        masks = [_mask(beam, rules.longest - length + 1) for beam in running]
        found += [
            _hypothesis(beam.ids, beam.log_probabilities, beam.total, rules, True)
            for beam, mask in zip(running, masks)
            if mask is not None and not mask.any()  # complete, and too little remains to go on
        ]
        goes_on = []
        for rank, step in enumerate(_steps(running, rows, masks, rules)):
            parent = running[step.parent]
            ended = step.id in rules.ends or (not rules.ends and _closes(parent, step))
            if not ended and length < rules.longest:
                goes_on.append(step)
            elif rank < rules.beams:
                found.append(_hypothesis(*_longer(parent, step), step.total, rules, ended))
        found = sorted(found, key=lambda text: text.score, reverse=True)[: rules.beams]
        goes_on = goes_on[: rules.beams]
        if not goes_on or _settled(found, goes_on[0].total, length, rules):
            break
        running = _followed(running, goes_on)
        rows = reader.read([(beam.reading, beam.ids[-1:]) for beam in running])
    if not found:
        raise ValueError("beam search: no token may follow, at least one is needed")
    return found


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


def _mask(beam: _Beam, remaining: int) -> numpy.ndarray | None:
    return None if beam.constraint is None else beam.constraint.allowed(remaining)


def _closes(beam: _Beam, step: _Step) -> bool:
    """Whether the constraint wants no more after this step, where no token could say so."""
    if beam.constraint is None:
        return False
    after = beam.constraint.fork()
    after.advance(step.id)
    return bool(after.finished)


def _settled(found: list[Hypothesis], best: float, length: int, rules: _Rules) -> bool:
    """Whether the texts found suffice; `best` is the largest sum of a beam that goes on."""
    if len(found) < rules.beams:
        return False
    if rules.early is True:
        return True
    reach = rules.longest if rules.early == "never" and rules.penalty > 0 else length
    return best / reach**rules.penalty <= found[-1].score


def _steps(
    running: list[_Beam],
    rows: list[numpy.ndarray],
    masks: list[numpy.ndarray | None],
    rules: _Rules,
) -> list[_Step]:
    """The best steps, best first: `beams` that go on are among them, if there are as many."""
    own = [log_probabilities(row[: rules.vocab_size]) for row in rows]
    totals = numpy.stack([beam.total + row for beam, row in zip(running, own)])
    for row, mask in zip(totals, masks):
        if mask is not None:
            row[~mask] = -math.inf
    flat = totals.reshape(-1)
    count = rules.beams * (1 + sum(0 <= end < totals.shape[1] for end in rules.ends))
    least = numpy.partition(flat, -count)[-count] if count < len(flat) else -math.inf
    places = numpy.flatnonzero((flat >= least) & (flat > -math.inf))
    places = places[numpy.argsort(-flat[places], kind="stable")][:count]
    parents, ids = numpy.divmod(places, totals.shape[1])
    return [
        _Step(float(totals[parent, id]), int(parent), int(id), float(own[parent][id]))
        for parent, id in zip(parents, ids)
    ]


def _hypothesis(
    ids: list[int], values: list[float], total: float, rules: _Rules, finished: bool
) -> Hypothesis:
    return Hypothesis(ids, total / max(1, len(ids)) ** rules.penalty, values, finished)


def _longer(beam: _Beam, step: _Step) -> tuple[list[int], list[float]]:
    return [*beam.ids, step.id], [*beam.log_probabilities, step.log_probability]


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
        followed.append(_Beam(reading, constraint, *_longer(beam, step), step.total))
    return followed

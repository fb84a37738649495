"""Threads and precision of a run by what a step of it takes here, and when the run will end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from minillm.quantities import DAY, counted, duration

Candidate = tuple[int, str]  # threads, precision
CLEARLY_FASTER = 1.15  # what bfloat16 must gain: it changes results slightly
CENTURY = 36_525 * DAY
LONG_STEP = 0.2  # seconds beyond which fewer threads cannot be as fast


def thread_counts(most: int) -> list[int]:
    """Numbers of threads worth a measurement: all, half as many, one."""
    return sorted({most, max(1, most // 2), 1}, reverse=True)


def measure(
    step: Callable[[int, str], float], threads: Sequence[int], precisions: Sequence[str]
) -> dict[Candidate, float]:
    """Seconds that `step` says for the candidates, the most threads first."""
    found: dict[Candidate, float] = {}
    for precision in precisions:
        for count in threads:
            found[count, precision] = step(count, precision)
            if found[count, precision] > LONG_STEP:
                break
    return found


def choose(seconds: Mapping[Candidate, float]) -> Candidate:
    """The fastest candidate, the fewest threads of equal ones; bfloat16 if clearly faster."""

    def fastest(precision: str) -> Candidate | None:
        known = [candidate for candidate in seconds if candidate[1] == precision]
        return min(known, key=lambda candidate: (seconds[candidate], candidate), default=None)

    plain, half = fastest("f32"), fastest("bf16")
    if plain is None or half is None:
        return min(seconds, key=lambda candidate: (seconds[candidate], candidate))
    return half if seconds[plain] >= CLEARLY_FASTER * seconds[half] else plain


def described(seconds: Mapping[Candidate, float], threads: bool = True) -> str:
    """The figures behind a choice, without `threads` where these do not compute; nothing where
    there was none."""
    if len(seconds) < 2:
        return ""
    figures = (
        f"{counted(count, 'thread') + ' ' if threads else ''}{precision} {1e3 * found:.3g} ms"
        for (count, precision), found in seconds.items()
    )
    return f" (measured for a step: {', '.join(figures)})"


@dataclass(frozen=True)
class Costs:
    """Seconds of what a run does: a step, a unit of validation, a sample, a save."""

    step: float
    validated: float = 0.0  # a token or an example
    sample: float = 0.0
    save: float = 0.0


def whole_run(
    costs: Costs,
    *,
    steps: int,
    eval_every: int,
    save_every: int,
    evaluated: int,
    validated: int,
) -> float:
    """Seconds of a run: steps; validations, each with a sample and perhaps a better model; saves.

    `evaluated` units are looked at each time and all `validated` in the end. The weights alone are
    a third of a save.
    """
    evaluations = -(-steps // eval_every)  # the last step has one as well
    saves = -(-steps // save_every)
    evaluation = evaluated * costs.validated + costs.sample + costs.save / 3
    return (
        steps * costs.step
        + evaluations * evaluation
        + saves * costs.save
        + validated * costs.validated
    )


def finish(seconds: float, now: float) -> str:
    """`done in about 4m10s, at 14:32`; `now` in seconds since the epoch, local time.

    Beyond a century there is no clock: the system's calendar ends somewhere.
    """
    if seconds > CENTURY:
        return f"done in about {duration(seconds)}"
    form = "%H:%M" if seconds < DAY / 2 else "%H:%M on %Y-%m-%d"
    clock = time.strftime(form, time.localtime(now + seconds))
    return f"done in about {duration(seconds)}, at {clock}"

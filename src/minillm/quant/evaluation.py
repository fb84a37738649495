"""Models on the same text: how their perplexities differ, and how fast each is."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from minillm.arrays import new_generator
from minillm.generation import Sampler
from minillm.generation.decoding import generate_ids
from minillm.generation.prompts import prompt_ids
from minillm.generation.reading import Reader
from minillm.generation.scoring import Score
from minillm.tokenizers import Tokenizer

PROMPT, GENERATED = 32, 64  # tokens by which decoding is timed, at least
WINDOW, READ, MOST_READ = 512, 3, 200  # tokens that are read at once; how often at least and most
TURN = 8  # tokens that a model writes before another has its turn
SECONDS = 1.0  # what takes less gives no speed that another could be compared with


class Speed(NamedTuple):
    """Tokens a second while a text is read, and while the model writes; the medians.

    None where less than a second could be measured.
    """

    read: float | None
    decoded: float | None


class Comparison(NamedTuple):
    """The second perplexity as a multiple of the first, and its standard error.

    The error is that of the mean difference of the same tokens' log-probabilities, which is far
    smaller than the errors of the two perplexities: what is hard in a text is hard for both.
    """

    ratio: float
    error: float | None


def speeds(
    models: Sequence[Any],
    tokenizer: Tokenizer,
    text: str,
    *,
    progress: Callable[[int], object] = lambda count: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Speed]:
    """How fast each model reads the beginning of a text and goes on from there.

    They take turns, so that what slows the machine for a while slows all of them. A turn reads up
    to 512 tokens, or writes eight; the last turns are those after which each had a second, and
    three or eight of them, as far as the context lets a model write on.
    """
    before, ids = prompt_ids(tokenizer, text)
    context = min(model.config.context for model in models)
    window = (before + ids)[: min(WINDOW, context)]
    readers = [Reader(model) for model in models]
    reads = [partial(_read, reader, window, progress) for reader in readers]
    read = _in_turn(reads, READ, MOST_READ, 1, clock)
    room = max(1, context // 2)
    prompt, greedy = window[: min(PROMPT, room)], Sampler(temperature=0.0)
    texts = [generate_ids(model, prompt, greedy, new_generator(0)) for model in models]
    for written in texts:
        next(written)  # reads the prompt
    tokens = [partial(_write, written, progress) for written in texts]
    wrote = _in_turn(tokens, min(GENERATED, room), room, TURN, clock)
    return [Speed(_rate(len(window), r), _rate(1, w)) for r, w in zip(read, wrote)]


def _read(reader: Reader, ids: Sequence[int], progress: Callable[[int], object]) -> None:
    reader.read([(reader.begin(), ids)], every=True)
    progress(len(ids))


def _write(text: Iterator[int], progress: Callable[[int], object]) -> None:
    next(text)
    progress(1)


def _in_turn(
    steps: Sequence[Callable[[], object]],
    least: int,
    most: int,
    together: int,
    clock: Callable[[], float],
) -> list[list[float]]:
    """Seconds that each of the steps took, `least` to `most` times, a second in all if it may be;
    `together` of one before those of the next."""
    times: list[list[float]] = [[] for _ in steps]
    while len(times[0]) < most:
        for step, taken in zip(steps, times):
            for _ in range(min(together, most - len(taken))):
                begin = clock()
                step()
                taken.append(clock() - begin)
        if len(times[0]) >= least and min(map(sum, times)) >= SECONDS:
            break
    return times


def _rate(tokens: int, seconds: list[float]) -> float | None:
    return tokens / statistics.median(seconds) if sum(seconds) >= SECONDS else None


def compare(before: Score, after: Score) -> Comparison:
    """Perplexity after by perplexity before, on one text in the same windows.

    ValueError for the scores of other tokens.
    """
    if before.ids != after.ids:
        raise ValueError("compare: scores of different tokens, those of one text are needed")
    lost = [
        a - b
        for a, b in zip(before.log_probabilities, after.log_probabilities)
        if a is not None and b is not None
    ]
    ratio = math.exp(min(math.fsum(lost) / len(lost), 700.0))
    if len(lost) < 2:
        return Comparison(ratio, None)
    return Comparison(ratio, ratio * statistics.stdev(lost) / math.sqrt(len(lost)))

"""A model on a text: perplexity and speed; and two models on the same text."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from minillm.arrays import new_generator
from minillm.generation import Sampler
from minillm.generation.decoding import generate_ids
from minillm.generation.prompts import prompt_ids
from minillm.generation.scoring import Score, score
from minillm.tokenizers import Tokenizer

PROMPT, GENERATED = 32, 64  # tokens by which decoding is timed, at least
SECONDS = 1.0  # what takes less gives no speed that another could be compared with


class Evaluation(NamedTuple):
    """`score` of the text; tokens a second while it was read, and while the model wrote.

    A speed is None where less than a second could be measured.
    """

    score: Score
    read_per_s: float | None
    decoded_per_s: float | None


class Comparison(NamedTuple):
    """The second perplexity as a multiple of the first, and its standard error.

    The error is that of the mean difference of the same tokens' log-probabilities, which is far
    smaller than the errors of the two perplexities: what is hard in a text is hard for both.
    """

    ratio: float
    error: float | None


def evaluate(
    model: Any,
    tokenizer: Tokenizer,
    text: str,
    *,
    context: int | None = None,
    stride: int | None = None,
    progress: Callable[[int], object] = lambda count: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Evaluation:
    """Score a text, in the windows of `generation.scoring.score`, and time both uses of the model.

    Decoding is the median time of a token in 64, or what a second suffices for, that follow the
    first 32 of the text. ValueError as for `score`.
    """
    begin = clock()
    found = score(model, tokenizer, text, context=context, stride=stride, progress=progress)
    seconds = clock() - begin
    window = min(len(found.ids), context or model.config.context)
    read_per_s = found.windows * window / seconds if seconds >= SECONDS else None
    return Evaluation(found, read_per_s, _decoded_per_s(model, tokenizer, text, clock))


def _decoded_per_s(
    model: Any, tokenizer: Tokenizer, text: str, clock: Callable[[], float]
) -> float | None:
    before, ids = prompt_ids(tokenizer, text)
    room = max(1, model.config.context // 2)
    prompt = (before + ids)[: min(PROMPT, room)]
    greedy, generator = Sampler(temperature=0.0), new_generator(0)
    generated = generate_ids(model, prompt, greedy, generator)
    next(generated)  # reads the prompt
    times: list[float] = []
    while len(times) < room and (len(times) < GENERATED or sum(times) < SECONDS):
        begin = clock()
        next(generated)
        times.append(clock() - begin)
    return 1 / statistics.median(times) if sum(times) >= SECONDS else None


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

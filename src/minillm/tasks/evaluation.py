"""Models measured on examples, and what can be had without a model."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from minillm.models import embedding
from minillm.models.embedding import Embedder
from minillm.tasks import heads
from minillm.tasks.classification import Classified
from minillm.tasks.encoding import WORD
from minillm.tasks.examples import Labelled, Question, Read, Tagged
from minillm.tasks.kinds import TASKS
from minillm.tasks.metrics import Metric, normalised
from minillm.tasks.similarity import measured, overlapping, read_pairs

WINDOW = 16  # words
BASELINES = {
    "classify": "the commonest label",
    "tag": "the commonest tag of each word",
    "embed": "the share of words in common",
    "qa": "the window of words most like the question",
}


class Evaluated(NamedTuple):
    """Figures of a model on examples, and what is to be said about these."""

    metrics: dict[str, Metric]
    notices: list[str]


Model = heads.Ready | Embedder


def read(task: str, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
    """The examples of a file."""
    if task == "embed":
        return read_pairs(path, columns, on_bad)
    return TASKS[task].read(path, columns, on_bad)


def load(task: str, path: str, length: int | None = None) -> Model:
    """A model that was tuned for the task; any encoder for vectors."""
    if task != "embed":
        return heads.load(TASKS[task], path, length)
    embedder = embedding.load(path)
    if length is not None:
        embedder.max_length = min(length, embedder.max_length)
    return embedder


def known(model: Model, examples: Sequence[Any], name: str, on_bad: str = "stop") -> Read:
    """The examples whose labels the model knows; see `Task.known`."""
    if isinstance(model, Embedder):
        return Read(list(examples), [])
    return model.task.known(examples, model.labels, name, on_bad)


def evaluate(ready: Model, examples: Sequence[Any]) -> Evaluated:
    """The figures of a model on examples whose labels it knows."""
    if isinstance(ready, Embedder):
        return Evaluated(measured(ready, examples), [])
    task = ready.task
    predictions, notices = ready.predict([task.input(example) for example in examples])
    return Evaluated(task.metrics(examples, predictions), notices)


def baseline(task: str, learnt: Sequence[Any], examples: Sequence[Any]) -> dict[str, Metric]:
    """The figures of what needs no model, BASELINES by the name of the task."""
    match task:
        case "embed":
            return overlapping(examples)
        case "classify":
            predictions: list[Any] = commonest_label(learnt, examples)
        case "tag":
            predictions = commonest_tags(learnt, examples)
        case _:
            predictions = [window_like(example) for example in examples]
    return TASKS[task].metrics(examples, predictions)


def commonest_label(learnt: Sequence[Labelled], examples: Sequence[Labelled]) -> list[Classified]:
    label, _ = Counter(example.label for example in learnt).most_common(1)[0]
    return [Classified(label, {label: 1.0})] * len(examples)


def commonest_tags(learnt: Sequence[Tagged], examples: Sequence[Tagged]) -> list[dict[int, str]]:
    """What tag a word has most often where it was learnt, O for a word that was not."""
    tags: dict[str, Counter[str]] = defaultdict(Counter)
    for example in learnt:
        for word, tag in zip(example.words, example.tags, strict=True):
            tags[word][tag] += 1
    best = {word: counts.most_common(1)[0][0] for word, counts in tags.items()}
    return [
        {place: best[word] for place, word in enumerate(example.words) if word in best}
        for example in examples
    ]


def window_like(example: Question) -> tuple[int, int, float]:
    """The WINDOW words in a row that share most with the question (Richardson et al. 2013).

    A word that they share counts log(1 + 1 / how often the text has it), once a window.
    """
    asked = set(normalised(example.question).split())
    spans = list(WORD.finditer(example.context))
    words = [normalised(span[0]) for span in spans]
    weights = {word: math.log1p(1 / n) for word, n in Counter(words).items() if word in asked}
    scores = [
        sum(weights.get(word, 0.0) for word in set(words[begin : begin + WINDOW]))
        for begin in range(max(1, len(words) - WINDOW + 1))
    ]
    begin = scores.index(max(scores))
    chosen = spans[begin : begin + WINDOW]
    return chosen[0].start(), chosen[-1].end(), 1.0

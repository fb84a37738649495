"""What can be had without a model, learnt from labelled examples or from nothing."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from minillm.tasks.classification import Classified
from minillm.tasks.encoding import WORD
from minillm.tasks.examples import Labelled, Question, Tagged
from minillm.tasks.metrics import normalised

WINDOW = 16  # words


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

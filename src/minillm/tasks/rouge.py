"""ROUGE (Lin 2004): the words, pairs of words and longest sequence that two texts share.

As the package rouge-score has it without stemming, but that letters of every alphabet make words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from minillm.tasks.metrics import Metric, mean

WORD = re.compile(r"[^\W_]+")


def rouge(references: Sequence[Sequence[str]], given: Sequence[str]) -> dict[str, Metric]:
    """ROUGE-1, -2 and -L as F1, of several references of a text the best by each."""
    words = [[_words(text) for text in texts] for texts in references]
    own = [_words(text) for text in given]
    measures: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
        "rouge_l": longest_f1,
        "rouge_1": partial(runs_f1, n=1),
        "rouge_2": partial(runs_f1, n=2),
    }
    return {
        name: mean(
            max(measure(reference, found) for reference in texts)
            for texts, found in zip(words, own, strict=True)
        )
        for name, measure in measures.items()
    }


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def runs_f1(reference: Sequence[str], found: Sequence[str], n: int) -> float:
    """F1 of the bags of runs of n words; 0 where one has none."""
    bags = [
        Counter(tuple(words[k : k + n]) for k in range(len(words) - n + 1))
        for words in (reference, found)
    ]
    return _f1((bags[0] & bags[1]).total(), bags[0].total(), bags[1].total())


def longest_f1(reference: Sequence[str], found: Sequence[str]) -> float:
    """F1 of the longest common subsequence."""
    lengths = [0] * (len(found) + 1)  # of the subsequence with the words of `found` up to each
    for word in reference:
        before = 0
        for place, other in enumerate(found, 1):
            kept = lengths[place]
            if word == other:
                lengths[place] = before + 1
            else:
                lengths[place] = max(kept, lengths[place - 1])
            before = kept
    return _f1(lengths[-1], len(reference), len(found))


def _f1(common: int, one: int, other: int) -> float:
    return 2 * common / (one + other) if common else 0.0

"""Questions made of texts: a sentence without some of its words asks for them (Lewis et al. 2019).

Few labelled questions teach a head little. Those made here cost nothing and teach the half of the
work that needs no understanding: to find the place that a question is about, and to answer with
what the question leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy

from minillm.arrays import new_generator
from minillm.tasks.encoding import WORD
from minillm.tasks.examples import Question

SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?](?!\s)[^.!?\n]*)*[.!?]?")
ASKED = ("what", "which", "who", "how many", "where", "when", "why")
LEAST_WORDS, LONGEST_ANSWER = 7, 10
KEPT = 0.6  # share of the other words that the question keeps
AROUND = 400  # characters of the text that is searched


def cloze(examples: Sequence[Question], each: int, seed: int) -> list[Question]:
    """`each` questions of the text of each example; fewer where it has no sentence long enough."""
    generator = new_generator(seed)
    return [made for example in examples for made in _of(example, each, generator)]


def _of(example: Question, each: int, generator: numpy.random.Generator) -> Iterator[Question]:
    text = example.context
    long = [
        words
        for sentence in SENTENCE.finditer(text)
        if len(words := list(WORD.finditer(text, sentence.start(), sentence.end()))) >= LEAST_WORDS
    ]
    for _ in range(each if long else 0):
        words = long[int(generator.integers(len(long)))]
        size = int(generator.integers(1, min(LONGEST_ANSWER, len(words) - 3) + 1))
        first = int(generator.integers(len(words) - size + 1))
        kept = generator.random(len(words)) < KEPT
        kept[first : first + size] = False
        asked = ASKED[int(generator.integers(len(ASKED)))]
        others = [word[0] for word, is_kept in zip(words, kept, strict=True) if is_kept]
        middle = (words[0].start() + words[-1].end()) // 2
        begin = _word_end(text, middle - AROUND // 2 - int(generator.integers(AROUND // 2)))
        begin = min(begin, words[0].start())
        end = max(begin + AROUND, words[-1].end())
        start = words[first].start()
        answer = text[start : words[first + size - 1].end()]
        question = f"{asked} {' '.join(others).rstrip('.!?')}?"
        yield Question(example.line, question, text[begin:end], (answer,), (start - begin,))


def _word_end(text: str, place: int) -> int:
    """The first place from `place` on where no word is cut."""
    place = max(0, place)
    while 0 < place < len(text) and not text[place - 1].isspace():
        place += 1
    return place

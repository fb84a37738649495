"""A tag for each word: names of people and places, parts of speech written as entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from minillm.quantities import counted
from minillm.tasks.encoding import PART, WORD, Encoding, Row
from minillm.tasks.examples import OUTSIDE, Read, Tagged, read_tagged
from minillm.tasks.metrics import Metric, accuracy, entity_metrics
from minillm.tasks.task import Task
from minillm.training.objective import IGNORED, Best


class Tagging(Task):
    """The first token of each word tells its tag; long sentences are cut into rows at words."""

    name = "tag"
    head = "ForTokenClassification"
    kind = Tagged
    best = Best("val_f1", highest=True)

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        return read_tagged(path, columns, on_bad)

    def labels(self, examples: Sequence[Tagged]) -> tuple[str, ...]:
        found = sorted({tag for example in examples for tag in example.tags} - {OUTSIDE})
        if not found:
            raise ValueError(
                f"tag: all words of {counted(len(examples), 'sentence')} have the tag "
                f"{OUTSIDE}, at least 1 entity is needed"
            )
        return (OUTSIDE, *found)

    def labels_in(self, example: Tagged) -> Sequence[str]:
        return example.tags

    def input(self, example: Tagged) -> list[str]:
        return example.words

    def rows(
        self, encoding: Encoding, inputs: Sequence[Sequence[str]]
    ) -> tuple[list[Row], list[str]]:
        rows = []
        room = encoding.length - len(encoding.tokenizer.around([]))
        cut = 0
        for place, words in enumerate(inputs):
            ids: list[int] = []
            heads: list[int | None] = []
            for word, own in enumerate(encoding.words(words)):
                cut += len(own) > room
                own = own[:room]
                if len(ids) + len(own) > room:
                    rows.append(_row(encoding, ids, heads, place))
                    ids, heads = [], []
                ids += own
                heads += [word, *[None] * (len(own) - 1)] if own else []
            rows.append(_row(encoding, ids, heads, place))
        return rows, [f"{counted(cut, 'word')} cut to {room} tokens"] * (cut > 0)

    def targets(self, row: Row, example: Tagged, labels: Sequence[str]) -> numpy.ndarray:
        return numpy.array(
            [IGNORED if word is None else labels.index(example.tags[word]) for word in row.places]
        )

    def decode(
        self, rows: Sequence[Row], outputs: Sequence[numpy.ndarray], labels: Sequence[str], n: int
    ) -> list[Any]:
        """Tags by word; a word that gives no token, such as a control character, is O."""
        found: list[dict[int, str]] = [{} for _ in range(n)]
        for row, logits in zip(rows, outputs, strict=True):
            for word, label in zip(row.places, logits.argmax(axis=-1), strict=True):
                if word is not None:
                    found[row.example][word] = labels[int(label)]
        return found

    def metrics(
        self, examples: Sequence[Tagged], predictions: Sequence[Mapping[int, str]]
    ) -> dict[str, Metric]:
        wanted = [example.tags for example in examples]
        given = [
            tags_of(prediction, len(example.words))
            for example, prediction in zip(examples, predictions, strict=True)
        ]
        flat = [[tag for tags in all_tags for tag in tags] for all_tags in (wanted, given)]
        return entity_metrics(wanted, given) | {"word_accuracy": accuracy(*flat)}


def tags_of(prediction: Mapping[int, str], words: int) -> list[str]:
    """The tag of each of so many words."""
    return [prediction.get(word, OUTSIDE) for word in range(words)]


def spans_of(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end: runs of letters and numbers, and single signs."""
    return [
        (word.start() + part.start(), word.start() + part.end())
        for word in WORD.finditer(text)
        for part in PART.finditer(word[0])
    ]


def _row(encoding: Encoding, ids: list[int], heads: list[int | None], example: int) -> Row:
    around = encoding.tokenizer.around([])
    whole = encoding.tokenizer.around(ids)
    begin = next((k for k in range(len(around) + 1) if whole[k : k + len(ids)] == ids), len(around))
    places = [None] * begin + heads + [None] * (len(whole) - begin - len(ids))
    return Row(whole, [0] * len(whole), example, places)

"""Classes of texts: intents, sentiments, topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy

from minillm.ops import softmax
from minillm.quantities import counted
from minillm.tasks.encoding import Encoding, Row
from minillm.tasks.examples import Labelled, Read, read_labelled
from minillm.tasks.metrics import Metric, accuracy, macro_f1
from minillm.tasks.task import Task
from minillm.training.objective import Best


class Classified(NamedTuple):
    """The most probable label, and the probability of each."""

    label: str
    probabilities: dict[str, float]


class Classification(Task):
    """A text has one of several labels."""

    name = "classify"
    head = "ForSequenceClassification"
    kind = Labelled
    best = Best("val_accuracy", highest=True)

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        return read_labelled(path, columns, on_bad)

    def labels(self, examples: Sequence[Labelled]) -> tuple[str, ...]:
        found = sorted({example.label for example in examples})
        if len(found) < 2:
            raise ValueError(
                f"classify: all {counted(len(examples), 'example')} have the label {found[0]!r}, "
                "at least 2 labels are needed"
            )
        return tuple(found)

    def labels_in(self, example: Labelled) -> Sequence[str]:
        return (example.label,)

    def input(self, example: Labelled) -> str:
        return example.text

    def rows(self, encoding: Encoding, inputs: Sequence[str]) -> tuple[list[Row], list[str]]:
        rows, cut = [], 0
        for place, text in enumerate(inputs):
            row, lost = encoding.text(text, place)
            rows.append(row)
            cut += lost > 0
        told = f"{cut} of {counted(len(rows), 'text')} cut to {encoding.length} tokens"
        return rows, [told] * (cut > 0)

    def targets(self, row: Row, example: Labelled, labels: Sequence[str]) -> numpy.ndarray:
        return numpy.asarray(labels.index(example.label))

    def decode(
        self, rows: Sequence[Row], outputs: Sequence[numpy.ndarray], labels: Sequence[str], n: int
    ) -> list[Any]:
        found = []
        for chances in softmax(numpy.stack(outputs)).numpy():
            named = {label: float(p) for label, p in zip(labels, chances, strict=True)}
            found.append(Classified(labels[int(chances.argmax())], named))
        return found

    def metrics(
        self, examples: Sequence[Labelled], predictions: Sequence[Classified]
    ) -> dict[str, Metric]:
        wanted = [example.label for example in examples]
        given = [prediction.label for prediction in predictions]
        return {"accuracy": accuracy(wanted, given), "macro_f1": macro_f1(wanted, given)}

"""Answers as spans of a given text (Rajpurkar et al. 2016), read in windows that overlap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy

from minillm.tasks.encoding import Encoding, Row
from minillm.tasks.examples import Question, Read, read_questions
from minillm.tasks.metrics import Metric, answer_f1, exact_match
from minillm.tasks.task import Task
from minillm.training.objective import Best

LONGEST = 64  # tokens of an answer


class Answer(NamedTuple):
    """A span of the context, and its probability among all spans of at most LONGEST tokens."""

    text: str
    start: int
    end: int
    probability: float


class Answering(Task):
    """The first and the last token of the answer; the first of all tokens means: not in here."""

    name = "qa"
    head = "ForQuestionAnswering"
    kind = Question
    best = Best("val_f1", highest=True)

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        return read_questions(path, columns, on_bad)

    def labels(self, examples: Sequence[Question]) -> tuple[str, ...]:
        return ("first", "last")

    def input(self, example: Question) -> tuple[str, str]:
        return example.question, example.context

    def text(self, example: Question) -> str:
        return example.context

    def rows(
        self, encoding: Encoding, inputs: Sequence[tuple[str, str]]
    ) -> tuple[list[Row], list[str]]:
        return [
            row
            for place, (question, context) in enumerate(inputs)
            for row in windows(encoding, question, context, place)
        ], []

    def targets(self, row: Row, example: Question, labels: Sequence[str]) -> numpy.ndarray:
        answer = example.answers[0]
        begin = example.starts[0] + len(answer) - len(answer.lstrip())
        end = begin + len(answer.strip())
        known = [(k, *place) for k, place in enumerate(row.places) if place is not None]
        first = next((k for k, start, stop in known if start <= begin < stop), 0)
        last = next((k for k, start, stop in reversed(known) if start < end <= stop), 0)
        return numpy.array([first, last] if first and last else [0, 0])

    def decode(
        self, rows: Sequence[Row], outputs: Sequence[numpy.ndarray], labels: Sequence[str], n: int
    ) -> list[Any]:
        """(start, end, probability) by input."""
        found: list[list[tuple[float, int, int, float]]] = [[] for _ in range(n)]
        for row, logits in zip(rows, outputs, strict=True):
            found[row.example].append(best_span(row, logits.astype(numpy.float64)))
        return [_best(spans) for spans in found]

    def metrics(
        self, examples: Sequence[Question], predictions: Sequence[tuple[int, int, float]]
    ) -> dict[str, Metric]:
        accepted = [example.answers for example in examples]
        given = [
            example.context[start:end]
            for example, (start, end, _) in zip(examples, predictions, strict=True)
        ]
        return {"f1": answer_f1(accepted, given), "exact_match": exact_match(accepted, given)}


def windows(encoding: Encoding, question: str, context: str, example: int) -> Iterator[Row]:
    """Rows of the question and a part of the context, each half a part further than the last."""
    asked = encoding.tokenizer.encode(question)
    pair = encoding.tokenizer.around_pair
    room = encoding.length - len(pair(asked, [])[0])
    spans = encoding.spans(context)
    ids = [id for span in spans for id in span.ids]
    places = [(span.start, span.end) for span in spans for _ in span.ids]
    if room < 2 or not ids:
        raise ValueError(
            f"qa: {len(asked)} tokens of the question leave {room} of {encoding.length} for a text "
            f"of {len(ids)}, at least 2 for a text of at least 1 are needed"
        )
    mark = pair(asked, [-1])[0].index(-1)
    for start in range(0, max(1, len(ids) - room + room // 2), max(1, room // 2)):
        part = slice(start, start + room)
        row, segments = pair(asked, ids[part])
        known = [None] * mark + places[part]
        yield Row(row, segments, example, [*known, *[None] * (len(row) - len(known))])


def best_span(row: Row, logits: numpy.ndarray) -> tuple[float, int, int, float]:
    """Score, start and end in the context, and the log of the sum of exp(score) over all spans."""
    known = numpy.array([place is not None for place in row.places])
    first, last = logits.T
    length = numpy.arange(len(first))
    distance = length[None, :] - length[:, None]
    allowed = known[:, None] & known[None, :] & (distance >= 0) & (distance < LONGEST)
    scores = numpy.where(allowed, first[:, None] + last[None, :], -numpy.inf)
    begin, end = numpy.unravel_index(int(scores.argmax()), scores.shape)
    top = float(scores[begin, end])
    total = top + float(numpy.log(numpy.exp(scores - top).sum()))
    return top, row.places[int(begin)][0], row.places[int(end)][1], total


def _best(spans: Sequence[tuple[float, int, int, float]]) -> tuple[int, int, float]:
    score, start, end, _ = max(spans, key=lambda span: span[0])
    totals = numpy.array([total for *_, total in spans])
    return start, end, float(1 / numpy.exp(totals - score).sum())


def answer_of(context: str, prediction: tuple[int, int, float]) -> Answer:
    start, end, probability = prediction
    return Answer(context[start:end], start, end, probability)

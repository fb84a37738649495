"""Multiple choice: which continuation of a question a decoder finds most probable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from minillm.data.tables import Faults, Row, read_rows
from minillm.generation.continuations import continuations, continued_ids
from minillm.generation.reading import Reader
from minillm.generation.scoring import require_decoder
from minillm.quantities import counted
from minillm.tasks.evaluation import Evaluated, Measure, Meter, unseen
from minillm.tasks.examples import Read
from minillm.tasks.metrics import Metric, accuracy, mean
from minillm.tasks.templates import Template

FIELDS = {  # and the names that they have in well-known sets
    "question": ("question", "query", "ctx", "context"),
    "choices": ("choices", "endings", "options"),
    "answer": ("answer", "gold", "label", "answerKey"),
}


class Asked(NamedTuple):
    """A question with its fields, the choices, and which of them (from 0) is right."""

    line: int
    fields: Mapping[str, Any]
    choices: list[str]
    answer: int


class Choice(Measure):
    """`prompt` is written with the fields of the row, {question} being the question.

    A choice stands behind it after a space. acc counts the most probable choice, acc_norm the one
    whose log-probability by byte of its text is highest (Gao et al., lm-evaluation-harness; there
    by character).
    """

    name = "choice"
    without = "a choice at random, the longest one, the place most often right"

    def __init__(self, prompt: str | None = None) -> None:
        self.prompt = Template("{question}" if prompt is None else prompt)

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        return read_questions(path, columns, self.prompt, on_bad)

    def evaluate(self, model: Any, examples: Sequence[Any], meter: Meter = unseen) -> Evaluated:
        require_decoder(model.model, "eval")
        reader, cut, chosen, by_byte = Reader(model.model), 0, [], []
        with meter("questions", len(examples)) as told:
            for one in examples:
                prompt = self.prompt.filled(one.fields)
                pairs = [continued_ids(model.tokenizer, prompt, f" {c}") for c in one.choices]
                found = continuations(reader, pairs[0][0], [ids for _, ids in pairs])
                cut += any(each.cut for each in found)
                totals = [each.total for each in found]
                sizes = [len(choice.encode("utf-8")) for choice in one.choices]
                chosen.append(_highest(totals))
                by_byte.append(_highest([t / n for t, n in zip(totals, sizes, strict=True)]))
                told(1)
        right = [one.answer for one in examples]
        metrics = {"acc": accuracy(right, chosen), "acc_norm": accuracy(right, by_byte)}
        notices = [f"left out the front of {counted(cut, 'question')}, too long"] if cut else []
        return Evaluated(metrics, notices)

    def baseline(self, learnt: Sequence[Any], examples: Sequence[Any]) -> dict[str, Metric]:
        commonest = Counter(one.answer for one in learnt).most_common(1)[0][0]
        longest = [_highest([len(c.encode("utf-8")) for c in one.choices]) for one in examples]
        right = [one.answer for one in examples]
        return {
            "random": mean(1 / len(one.choices) for one in examples),
            "longest": accuracy(right, longest),
            "usual place": accuracy(right, [commonest] * len(right)),
        }


def _highest(values: Sequence[float]) -> int:
    """The place of the highest value, the first of equals."""
    return max(range(len(values)), key=values.__getitem__)


def read_questions(
    path: str, columns: Mapping[str, str], prompt: Template, on_bad: str = "stop"
) -> Read:
    """Rows of a .jsonl file with a question, choices and an answer, under any name of FIELDS.

    Choices are texts, or ARC's {"text": [...], "label": [...]}. The answer is one of the labels or
    a choice; without labels also its place from 0, or its letter from A.
    """
    if not path.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"read: {path} is no .jsonl file by its name, one is needed")
    names = [name for several in FIELDS.values() for name in several]
    faults = Faults(path, on_bad)
    optional = tuple(dict.fromkeys([*names, *prompt.fields]))
    rows, notices = read_rows(path, (), columns, faults, optional)
    found = [one for row in rows if (one := _asked(row, faults, prompt)) is not None]
    if len(faults):
        notices = [*notices, str(faults)]
    if not found:
        raise ValueError(f"read: {path} has no question, at least 1 is needed")
    return Read(found, notices)


def _asked(row: Row, faults: Faults, prompt: Template) -> Asked | None:
    """The question of a row; None, and counted, where there is something wrong with it."""
    values = {}
    for field, several in FIELDS.items():
        there = [name for name in several if name in row.fields]
        if not there:
            present = ", ".join(map(repr, row.fields)) or "none that is known"
            faults.found(row.line, f"no {field}", f"no {field} but {present}", several[0])
            return None
        values[field] = row.fields[there[0]]
    choices: Any = values["choices"]
    labels = None
    if isinstance(choices, dict):
        choices, labels = choices.get("text"), choices.get("label")
    texts = isinstance(choices, list) and all(isinstance(c, str) and c.strip() for c in choices)
    if not texts or len(choices) < 2 or not isinstance(values["question"], str):
        kind = "no two choices, or no question"
        faults.found(row.line, kind, kind, "a text, and a list of 2 texts or more")
        return None
    fields = dict(row.fields) | {"question": values["question"]}
    missing = prompt.missing(fields)
    if missing:
        faults.found(row.line, "a field missing", f"no field {missing!r}", "what the prompt names")
        return None
    if labels is not None and (not isinstance(labels, list) or len(labels) != len(choices)):
        told = counted(len(labels), "label") if isinstance(labels, list) else "labels that are none"
        detail = f"{told} of {len(choices)} choices"
        faults.found(row.line, "other labels than choices", detail, "one of each")
        return None
    place = _place(values["answer"], choices, labels)
    if place is None:
        detail = f"the answer {values['answer']!r} is none of the {len(choices)} choices"
        faults.found(row.line, "an answer that is no choice", detail, "a choice, place or letter")
        return None
    return Asked(row.line, fields, choices, place)


def _place(answer: Any, choices: list[str], labels: list[Any] | None) -> int | None:
    """Which choice an answer is: by label (numbers are texts there), then text; where there are no
    labels also by place from 0, then letter from A."""
    names = [] if labels is None else list(map(str, labels))
    if str(answer) in names:
        return names.index(str(answer))
    if answer in choices or labels is not None:
        return choices.index(answer) if answer in choices else None
    if isinstance(answer, str) and answer.isdecimal():
        answer = int(answer)
    if isinstance(answer, str) and len(answer) == 1 and "A" <= answer.upper() <= "Z":
        answer = ord(answer.upper()) - ord("A")
    whole = type(answer) is int and 0 <= answer < len(choices)
    return answer if whole else None

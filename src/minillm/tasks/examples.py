"""Examples of the tasks, from files: labelled texts, tagged words, questions with answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from minillm.data.tables import Faults, Row, kind_of, read_rows, text_of

TAG = re.compile(r"O|[BIES]-\S+")
OUTSIDE = "O"


class Labelled(NamedTuple):
    """A text and its class."""

    line: int
    text: str
    label: str


class Tagged(NamedTuple):
    """Words, and for each a tag: O, or B-, I-, E- or S- with the type of an entity."""

    line: int
    words: list[str]
    tags: list[str]


class Question(NamedTuple):
    """A question, the text that answers it, and the answers accepted with where each begins."""

    line: int
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


class Read(NamedTuple):
    """The examples of a file, and what is to be said about them."""

    examples: list[Any]
    notices: list[str]


def read_labelled(path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
    """Rows with the columns label and text."""
    faults = Faults(path, on_bad)
    rows, notices = read_rows(path, ("label", "text"), columns, faults)
    found = []
    for line, fields in rows:
        text, label = fields["text"], fields["label"]
        label = str(label) if type(label) in (int, bool) else label
        if _is_text(text, "text", line, faults) and _is_text(label, "label", line, faults):
            found.append(Labelled(line, text, label.strip()))
    return _read(path, found, notices, faults)


def read_tagged(path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
    """Sentences of a CoNLL file, a word a line, its tag in the last column, between blank lines.

    Columns are parted by tabs where a line has one, else by spaces. A .jsonl file has the lists
    tokens and tags in each line.
    """
    text, source = text_of(path)
    faults = Faults(path, on_bad)
    if columns and kind_of(source) != ".jsonl":
        raise ValueError(f"columns: those of {path} have no names, leave --columns out")
    if kind_of(source) == ".jsonl":
        rows, _ = read_rows(path, ("tokens", "tags"), columns, faults)
        return _read(path, [_tagged(row) for row in rows if _fits(row, faults)], [], faults)
    found: list[Tagged] = []
    words: list[str] = []
    tags: list[str] = []
    whole, begin = True, 1
    for line, content in enumerate([*text.split("\n"), ""], 1):
        if not content.strip():
            if words and whole:
                found.append(Tagged(begin, words, tags))
            words, tags, whole, begin = [], [], True, line + 1
            continue
        if content.startswith("-DOCSTART-"):
            continue
        cells = content.split("\t") if "\t" in content else content.split()
        fault = _cells_fault(cells)
        if fault and whole:  # a sentence counts once
            faults.found(line, *fault)
        whole = whole and not fault
        words.append(cells[0])
        tags.append(cells[-1].strip())
    return _read(path, found, [], faults)


def _cells_fault(cells: list[str]) -> tuple[str, str, str] | None:
    """Kind, detail and need of what is wrong with a line of a CoNLL file."""
    if len(cells) < 2:
        return "a word without a tag", "1 column", "a word and a tag"
    if not cells[0].strip():
        return "an empty word", "an empty word", "a word and a tag"
    if not TAG.fullmatch(cells[-1].strip()):
        return "no tag", f"{cells[-1].strip()!r} is no tag", "O, or B- or I- and a type"
    return None


def read_questions(path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
    """Rows with question, context and answer; answer_start, where it is missing, is searched.

    `answers`, as in SQuAD, may stand in place of both: {"text": [...], "answer_start": [...]}.
    """
    faults = Faults(path, on_bad)
    extra = ("answer", "answer_start", "answers")
    rows, notices = read_rows(path, ("question", "context"), columns, faults, extra)
    found = []
    for row in rows:
        fields = row.fields
        texts = [_is_text(fields[name], name, row.line, faults) for name in ("question", "context")]
        answers = _answers(row, faults) if all(texts) else None
        if answers is not None:
            found.append(Question(row.line, fields["question"], fields["context"], *answers))
    return _read(path, found, notices, faults)


def _answers(row: Row, faults: Faults) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """The answers of a row and where they begin; None for what is wrong with them."""
    context, several = row.fields["context"], row.fields.get("answers")
    if isinstance(several, dict):
        texts, starts = several.get("text"), several.get("answer_start")
    else:
        texts, starts = [row.fields.get("answer")], [row.fields.get("answer_start")]
    if not isinstance(texts, list) or not texts or not isinstance(starts, list | None):
        faults.found(row.line, "no answer", "no answer", "an answer or answers")
        return None
    starts = starts or [None] * len(texts)
    begins: list[int] = []
    for text, start in zip(texts, starts, strict=False):
        if not _is_text(text, "answer", row.line, faults):
            return None
        if isinstance(start, str) and start.isdecimal():
            start = int(start)
        begin = context.find(text) if start is None else start
        if type(begin) is not int or begin < 0 or context[begin : begin + len(text)] != text:
            place = "" if start is None else f" at character {start!r}"
            faults.found(
                row.line,
                "an answer that is not in the context",
                f"the answer {text[:40]!r} is not in the context{place}",
                "an answer that stands there",
            )
            return None
        begins.append(begin)
    if len(starts) != len(texts):
        detail = f"{len(texts)} answers but {len(starts)} places"
        faults.found(row.line, "answers without a place", detail, "a place for each")
        return None
    return tuple(texts), tuple(begins)


def _fits(row: Row, faults: Faults) -> bool:
    """Whether tokens and tags of a JSON line are lists of equal length of words and tags."""
    words, tags = row.fields["tokens"], row.fields["tags"]
    if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
        sizes = [len(part) if isinstance(part, list) else "no" for part in (words, tags)]
        detail = f"{sizes[0]} tokens and {sizes[1]} tags"
        faults.found(row.line, "tokens and tags that do not match", detail, "as many of each")
        return False
    for cells in zip(words, tags, strict=True):
        fault = _cells_fault(list(cells)) if all(isinstance(c, str) for c in cells) else None
        if fault or not all(isinstance(cell, str) for cell in cells):
            kind, detail, needed = fault or ("no text", f"{list(cells)!r} are no texts", "texts")
            faults.found(row.line, kind, detail, needed)
            return False
    return bool(words)


def _tagged(row: Row) -> Tagged:
    return Tagged(row.line, list(row.fields["tokens"]), list(row.fields["tags"]))


def _is_text(value: Any, name: str, line: int, faults: Faults) -> bool:
    """Whether a field holds a text that is not blank."""
    if isinstance(value, str) and value.strip():
        return True
    kind = f"an empty {name}" if isinstance(value, str) or value is None else f"no text as {name}"
    faults.found(line, kind, f"{name} is {value!r}", "a text")
    return False


def _read(path: str, found: list[Any], notices: list[str], faults: Faults) -> Read:
    if len(faults):
        notices = [*notices, str(faults)]
    if not found:
        told = f"; {faults}" if len(faults) else ""
        raise ValueError(f"read: {path} has no example, at least 1 is needed{told}")
    return Read(found, notices)

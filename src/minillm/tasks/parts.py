"""The examples of a run that tunes an encoder: read, split, kept beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minillm.arrays import new_generator
from minillm.data.tables import columns_of
from minillm.formats import hf
from minillm.quantities import counted
from minillm.tasks.cloze import cloze
from minillm.tasks.settings import TaskSettings
from minillm.tasks.task import Work
from minillm.training.run_folder import INNER, Say

EXAMPLES = "examples.json"


class Parts(NamedTuple):
    """What the head tells apart, the examples, and the digest of the weights of the beginning."""

    labels: tuple[str, ...]
    train: list[Any]
    val: list[Any]
    digest: str = ""


def read_parts(task: Work, files: Sequence[str], settings: TaskSettings, say: Say) -> Parts:
    """The examples to learn from and those to validate on, and the labels of the first."""
    columns = columns_of(settings.columns)

    def read(paths: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for path in paths:
            examples, notices = task.read(path, columns, settings.on_bad)
            for notice in notices:
                say(f"data: {notice}")
            found += examples
        return found

    train = read(files)
    labels = task.labels(train)  # before any are held out, so that none of these has a strange one
    if settings.val is None:
        train, val = split(task, train, settings)
    else:
        val, notices = task.known(read([settings.val]), labels, settings.val, settings.on_bad)
        for notice in notices:
            say(f"data: {notice}")
    made = cloze(train, settings.cloze, settings.seed) if settings.cloze else []
    told = f", {counted(len(labels), 'label')}" if task.name in ("classify", "tag") else ""
    say(f"data: {counted(len(train), 'example')} to learn from, {len(val):,} to validate on{told}")
    both = shared(task, train, val)
    if both:
        say(
            f"data: {both:,} of {counted(len(val), 'example')} to validate on "
            f"{'has' if both == 1 else 'have'} a text that is learnt from too"
        )
    if made:
        say(f"data: {counted(len(made), 'question')} made of the texts to learn from")
    return Parts(labels, train + made, val)


def split(task: Work, examples: list[Any], settings: TaskSettings) -> tuple[list[Any], list[Any]]:
    """The last ones, or a share drawn from the seed, apart from the others.

    What is drawn takes all examples of its text along: no text is on both sides.
    """
    n = len(examples)
    last = settings.val_last
    if last is not None and last >= n:
        raise ValueError(
            f"val-last: {last} of {counted(n, 'example')}, at least 1 to learn from is needed"
        )
    if last is not None:
        return examples[:-last], examples[-last:]
    size = int(n * settings.val_fraction)
    of_text: dict[str, list[int]] = defaultdict(list)
    for place, example in enumerate(examples):
        of_text[str(task.text(example))].append(place)
    held: set[int] = set()
    for place in new_generator(settings.seed).permutation(n).tolist():
        own = of_text[str(task.text(examples[place]))]
        fits = len(held) + len(own) <= size or (not held and size > 0 and len(own) < n)
        if place not in held and fits:
            held.update(own)
    return (
        [example for place, example in enumerate(examples) if place not in held],
        [examples[place] for place in sorted(held)],
    )


def shared(task: Work, train: Sequence[Any], val: Sequence[Any]) -> int:
    """How many of `val` have a text of `train`, which flatters what they measure."""
    learnt = {text for example in train for text in task.texts(example)}
    return sum(not learnt.isdisjoint(task.texts(example)) for example in val)


def save(folder: Path, parts: Parts) -> None:
    """Write them into the folder of a run."""
    hf.write_json(folder / INNER / EXAMPLES, parts._asdict())


def load(folder: Path, task: Work) -> Parts:
    """The examples of the run in `folder`."""
    content = hf.read_json(folder / INNER / EXAMPLES)
    train, val = (task.restored(content[name]) for name in ("train", "val"))
    return Parts(tuple(content["labels"]), train, val, content["digest"])

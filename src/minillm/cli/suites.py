"""The part of `eval` and `compare` that runs a suite: everything is read before anything is
measured."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from minillm.cli.figures import comparison, figures, shown
from minillm.cli.main import OK
from minillm.cli.measuring import evaluate, load, note, write_json

if TYPE_CHECKING:
    from minillm.tasks.suite import Entry

COLUMNS = ("measure", "data", "examples", "metric")
Rows = list[tuple[str, ...]]


class Part(NamedTuple):
    """The examples of one file of a measure, and the models that it is of."""

    entry: Entry
    path: str
    examples: list[Any]
    models: list[Any]


def run(arguments: argparse.Namespace) -> int:
    """`eval --suite`."""
    sets = []
    rows: Rows = [(*COLUMNS, "value (95 %)")]
    with _shown_where_it_ends(rows):
        for part in _parts(arguments, [(arguments.model, arguments.adapter)]):
            found = evaluate(part.entry.measure, part.models[0], part.examples, arguments.model)
            note([f"{part.entry.name}: {notice}" for notice in found.notices])
            values = figures(found.metrics, arguments)
            sets.append(_named(part) | {"metrics": values})
            rows += [(*_cells(part, name), shown(one)) for name, one in values.items()]
    result = {"model": arguments.model, "suite": arguments.suite, "sets": sets}
    if write_json(arguments, result):
        _table(rows)
    return OK


def compare(arguments: argparse.Namespace) -> int:
    """`compare --suite`."""
    from minillm.tasks.significance import LEVEL

    sides = [(arguments.first, arguments.adapter_a), (arguments.second, arguments.adapter_b)]
    sets = []
    rows: Rows = [(*COLUMNS, "A", "B", "B - A (95 %)", "p", "better")]
    with _shown_where_it_ends(rows):
        for part in _parts(arguments, sides):
            values = comparison(arguments, part.entry.measure, part.models, part.examples)
            sets.append(_named(part) | {"metrics": values})
            for name, row in values.items():
                gap = f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
                better = {"first": "A", "second": "B", None: "-"}[row["better"]]
                cells = (f"{row['first']:.4f}", f"{row['second']:.4f}", gap, f"{row['p']:.4f}")
                rows.append((*_cells(part, name), *cells, better))
    names = {"first": arguments.first, "second": arguments.second, "suite": arguments.suite}
    if write_json(arguments, names | {"sets": sets}):
        print(f"A {arguments.first}\nB {arguments.second}")
        _table(rows)
        print(f"better: by a two-sided p of the paired bootstrap below {1 - LEVEL:.2f}")
    return OK


@contextmanager
def _shown_where_it_ends(rows: Rows) -> Iterator[None]:
    """Where the user ends it, what is known by then is not lost."""
    try:
        yield
    except KeyboardInterrupt:
        if len(rows) > 1:
            _table(rows)
        raise


def _parts(
    arguments: argparse.Namespace, sides: Sequence[tuple[str, str | None]]
) -> Iterator[Part]:
    """What is to be measured, once all of it is known to be possible."""
    from minillm.tasks import suite

    entries = suite.read(arguments.suite)
    read = [_read(entry) for entry in entries]
    held: dict[tuple[str, str | None], Any] = {}  # a decoder serves all measures of decoders
    parts = []
    for entry, sets in zip(entries, read, strict=True):
        models = []
        for side in sides:
            try:
                model = held.get(side) if entry.measure.model == "decoder" else None
                if model is None:
                    model = load(entry.measure, *side)
                else:
                    entry.measure.require(model)
            except (ValueError, TypeError) as error:
                raise ValueError(f"suite: {entry.name}: {error}") from error
            if entry.measure.model == "decoder":
                held[side] = model
            models.append(model)
        for path, examples in sets:
            for model in models:
                examples, notices = entry.measure.known(model, examples, path, entry.on_bad)
                note(notices)
            parts.append(Part(entry, path, examples, models))
    yield from parts


def _read(entry: Entry) -> list[tuple[str, list[Any]]]:
    sets = []
    for path in entry.paths:
        try:
            found, notices = entry.measure.read(path, entry.columns, entry.on_bad)
        except (ValueError, TypeError) as error:
            raise ValueError(f"suite: {entry.name}: {error}") from error
        note(notices)
        if entry.last is not None and entry.last > len(found):
            raise ValueError(
                f"suite: {entry.name}: last: {entry.last}, 1 to {len(found)} (the examples of "
                f"{path}) are needed"
            )
        sets.append((path, found if entry.last is None else found[-entry.last :]))
    return sets


def _named(part: Part) -> dict[str, Any]:
    return {
        "name": part.entry.name,
        "kind": part.entry.measure.name,
        "data": part.path,
        "examples": len(part.examples),
    }


def _cells(part: Part, metric: str) -> tuple[str, ...]:
    from pathlib import Path

    name = Path(part.path).name
    return part.entry.name, name, f"{len(part.examples):,}", metric.replace("_", " ")


def _table(rows: Rows) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        sizes = zip(row, widths, strict=True)
        cells = [c.rjust(w) if k == 2 else c.ljust(w) for k, (c, w) in enumerate(sizes)]
        print("  ".join(cells).rstrip())

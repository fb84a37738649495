"""Measure a tuned encoder on labelled examples, with intervals, beside what needs no model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minillm.cli.main import OK, tell
from minillm.quantities import counted

if TYPE_CHECKING:
    from minillm.tasks.metrics import Metric

NAMES = ("classify", "tag", "qa", "embed")
MOST_RESAMPLES = 1_000_000  # the interval is known to four digits long before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="PATH", help="folder of an encoder tuned for the task")
    add_data(parser)
    parser.add_argument(
        "--baseline", metavar="F", help="measure what needs no model as well, learnt from this file"
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """What `eval` and `compare` are told of the examples."""
    parser.add_argument(
        "--data", nargs="+", metavar="F", required=True, help="files of examples, each measured"
    )
    parser.add_argument("--task", choices=NAMES, required=True, help="what the examples are of")
    parser.add_argument("--last", type=int, metavar="N", help="of each file the last examples only")
    parser.add_argument("--columns", help="columns under other names, such as text=review")
    parser.add_argument("--on-bad", default="stop", help="at a bad row: stop (default) or skip")
    parser.add_argument("--max-length", type=int, metavar="N", help="longest row in tokens")
    parser.add_argument(
        "--resamples", type=int, default=10_000, metavar="N", help="of the bootstrap (10000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (0)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the extension")
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def examples_of(arguments: argparse.Namespace, path: str) -> list[Any]:
    """The examples of a file; what is to be said about them is said."""
    from minillm.data.tables import columns_of
    from minillm.tasks import evaluation

    columns = columns_of(arguments.columns)
    found, notices = evaluation.read(arguments.task, path, columns, arguments.on_bad)
    note(notices)
    last = arguments.last
    if last is not None and not 1 <= last <= len(found):
        raise ValueError(f"last: {last}, 1 to {len(found)} (the examples of {path}) are needed")
    return found if last is None else found[-last:]


def note(notices: list[str]) -> None:
    for notice in notices:
        tell(f"minillm: note: {notice}")


def prepare(arguments: argparse.Namespace) -> None:
    from minillm import kernels

    if arguments.threads is not None:
        kernels.set_threads(arguments.threads)
    if arguments.resamples > MOST_RESAMPLES:
        raise ValueError(f"resamples: {arguments.resamples}, {MOST_RESAMPLES} or less is needed")
    for name, least in (("resamples", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise ValueError(f"{name}: {getattr(arguments, name)}, {least} or more is needed")


def run(arguments: argparse.Namespace) -> int:
    from minillm.data.tables import columns_of
    from minillm.tasks import evaluation

    prepare(arguments)
    task, learnt = arguments.task, []
    if arguments.baseline is not None:
        columns = columns_of(arguments.columns)
        learnt = evaluation.read(task, arguments.baseline, columns, arguments.on_bad).examples
    ready = evaluation.load(task, arguments.model, arguments.max_length)
    sets = []
    for path in arguments.data:
        examples, notices = evaluation.known(
            ready, examples_of(arguments, path), path, arguments.on_bad
        )
        note(notices)
        metrics, notices = evaluation.evaluate(ready, examples)
        note(notices)
        found: dict[str, Any] = {"data": path, "examples": len(examples)}
        found["metrics"] = figures(metrics, arguments)
        if arguments.baseline is not None:
            found["baseline"] = figures(evaluation.baseline(task, learnt, examples), arguments)
        sets.append(found)
    if arguments.json:
        print(json.dumps({"model": arguments.model, "task": task, "sets": sets}))
        return OK
    for found in sets:
        print(f"{task}: {counted(found['examples'], 'example')} of {found['data']}")
        table(found["metrics"])
        if "baseline" in found:
            print(f"without a model, {evaluation.BASELINES[task]}:")
            table(found["baseline"])
    return OK


def figures(metrics: Mapping[str, Metric], arguments: argparse.Namespace) -> dict[str, Any]:
    from minillm.tasks.significance import interval

    return {
        name: interval(metric, arguments.resamples, arguments.seed)._asdict()
        for name, metric in metrics.items()
    }


def table(found: Mapping[str, Any]) -> None:
    for name, one in found.items():
        shown = f"{one['value']:.4f}  (95 %: {one['low']:.4f} to {one['high']:.4f})"
        print(f"  {name.replace('_', ' '):<14} {shown}")

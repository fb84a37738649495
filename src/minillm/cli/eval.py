"""Measure a model, with intervals, beside what needs no model.

Decoders by perplexity of texts, encoders by labelled examples.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from minillm.cli.adapted import add_adapter
from minillm.cli.figures import figures
from minillm.cli.main import OK
from minillm.cli.measuring import (
    add_data,
    evaluate,
    examples_of,
    load,
    measure_of,
    note,
    policy,
    prepare,
    write_json,
)
from minillm.quantities import counted

WIDTH = 14  # of the names of metrics, at least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="PATH", help="folder, .gguf file or pulled name")
    add_data(parser)
    parser.add_argument(
        "--baseline", metavar="F", help="measure what needs no model as well, learnt from this file"
    )
    add_adapter(parser)


def run(arguments: argparse.Namespace) -> int:
    from minillm.data.tables import columns_of

    prepare(arguments)
    if arguments.suite is not None:
        from minillm.cli import suites

        return suites.run(arguments)
    measure, paths = measure_of(arguments)
    learnt = []
    if arguments.baseline is not None:
        columns = columns_of(arguments.columns)
        learnt = measure.read(arguments.baseline, columns, policy(arguments)).examples
    model = load(measure, arguments.model, arguments.adapter)
    sets, measured = [], []
    for path in paths:
        examples, notices = measure.known(
            model, examples_of(arguments, measure, path), path, policy(arguments)
        )
        note(notices)
        shown = evaluate(measure, model, examples, arguments.model)
        note(shown.notices)
        measured.append(shown.metrics)
        found: dict[str, Any] = {"data": path, "examples": len(examples)}
        found["metrics"] = figures(shown.metrics, arguments)
        if arguments.baseline is not None:
            found["baseline"] = figures(measure.baseline(learnt, examples), arguments)
        sets.append(found)
    result = {"model": arguments.model, "task": measure.name, "sets": sets}
    if arguments.perplexity is not None:
        from minillm.cli import eval_perplexity

        return eval_perplexity.tell(arguments, measure, model, measured, result)
    if write_json(arguments, result):
        for found in sets:
            print(f"{measure.name}: {counted(found['examples'], 'example')} of {found['data']}")
            table(found["metrics"])
            if "baseline" in found:
                print(f"without a model, {measure.without}:")
                table(found["baseline"])
    return OK


def table(found: Mapping[str, Any]) -> None:
    width = max([WIDTH, *map(len, found)])
    for name, one in found.items():
        around = "" if one["low"] is None else f"  (95 %: {one['low']:.4f} to {one['high']:.4f})"
        print(f"  {name.replace('_', ' '):<{width}} {one['value']:.4f}{around}")

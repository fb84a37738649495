"""Say whether one model is better than another on the same examples, or only luckier."""

from __future__ import annotations

import argparse
from typing import Any

from minillm.cli.figures import comparison
from minillm.cli.main import OK
from minillm.cli.measuring import (
    add_data,
    examples_of,
    load,
    measure_of,
    note,
    policy,
    prepare,
    write_json,
)
from minillm.quantities import counted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="MODEL_A", help="folder, .gguf file or pulled name")
    parser.add_argument("second", metavar="MODEL_B", help="another")
    for side in "ab":
        parser.add_argument(
            f"--adapter-{side}",
            metavar="DIR",
            help=f"LoRA adapter used beside MODEL_{side.upper()}",
        )
    add_data(parser)


def run(arguments: argparse.Namespace) -> int:
    from minillm.tasks.significance import LEVEL

    prepare(arguments)
    if arguments.suite is not None:
        from minillm.cli import suites

        return suites.compare(arguments)
    measure, paths = measure_of(arguments)
    models = [
        load(measure, arguments.first, arguments.adapter_a),
        load(measure, arguments.second, arguments.adapter_b),
    ]
    found: list[dict[str, Any]] = []
    for path in paths:
        examples = examples_of(arguments, measure, path)
        for model in models:
            examples, notices = measure.known(model, examples, path, policy(arguments))
            note(notices)
        rows = comparison(arguments, measure, models, examples)
        found.append({"data": path, "examples": len(examples), "metrics": rows})
    names = {"first": arguments.first, "second": arguments.second}
    if write_json(arguments, names | {"task": measure.name, "sets": found}):
        print(f"A {arguments.first}\nB {arguments.second}")
        for one in found:
            print(f"{measure.name}: {counted(one['examples'], 'example')} of {one['data']}")
            for name, row in one["metrics"].items():
                print(f"  {name.replace('_', ' '):<14} {told(row)}")
        print(f"significant: a two-sided p of the paired bootstrap below {1 - LEVEL:.2f}")
    return OK


def told(row: dict[str, Any]) -> str:
    names = {"first": "A is better", "second": "B is better", None: "no significant difference"}
    text = (
        f"A {row['first']:.4f}  B {row['second']:.4f}  B - A {row['difference']:+.4f} "
        f"(95 %: {row['low']:+.4f} to {row['high']:+.4f})  p {row['p']:.4f}: {names[row['better']]}"
    )
    if "mcnemar_p" in row:
        text += (
            f"; right alone: A {row['only_first']}, B {row['only_second']}, "
            f"McNemar p {row['mcnemar_p']:.4f}"
        )
    return text

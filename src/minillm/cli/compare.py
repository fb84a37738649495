"""Say whether one model is better than another on the same examples, or only luckier."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from minillm.cli.main import OK
from minillm.cli.measuring import (
    add_data,
    evaluate,
    examples_of,
    load,
    measure_of,
    note,
    prepare,
    write_json,
)
from minillm.quantities import counted

if TYPE_CHECKING:
    from minillm.tasks.evaluation import Measure

RIGHT_OR_WRONG = ("accuracy", "exact_match", "acc", "acc_norm")


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
    measure, paths = measure_of(arguments)
    models = [
        load(measure, arguments.first, arguments.adapter_a),
        load(measure, arguments.second, arguments.adapter_b),
    ]
    found: list[dict[str, Any]] = []
    for path in paths:
        examples = examples_of(arguments, measure, path)
        for model in models:
            examples, notices = measure.known(model, examples, path, arguments.on_bad)
            note(notices)
        rows = compared(arguments, measure, models, examples)
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


def compared(
    arguments: argparse.Namespace, measure: Measure, models: list[Any], examples: list[Any]
) -> dict[str, dict[str, Any]]:
    """By metric: both values, the difference with its interval, p, and which one is better."""
    from minillm.tasks import significance

    measured = []
    for name, model in zip((arguments.first, arguments.second), models, strict=True):
        found = evaluate(measure, model, examples, name)
        note([f"{name}: {notice}" for notice in found.notices])
        measured.append(found)
    note(measure.leave_comparable(*measured))
    rows: dict[str, dict[str, Any]] = {}
    for name, first in measured[0].metrics.items():
        second = measured[1].metrics[name]
        gap = significance.difference(first, second, arguments.resamples, arguments.seed)
        better = ("first", "second")[(gap.value > 0) != first.lowest] if gap.significant else None
        rows[name] = {"first": first.value, "second": second.value}
        rows[name] |= {"difference": gap.value, "low": gap.low, "high": gap.high, "p": gap.p}
        if name in RIGHT_OR_WRONG:
            right = [metric.statistics[:, 0] == 1 for metric in (first, second)]
            only_first, only_second, p = significance.mcnemar(*right)
            rows[name] |= {"only_first": only_first, "only_second": only_second, "mcnemar_p": p}
        rows[name]["better"] = better
    return rows


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

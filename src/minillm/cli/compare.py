"""Say whether one tuned encoder is better than another on the same examples, or only luckier."""

from __future__ import annotations

import argparse
import json
from typing import Any

from minillm.cli.eval import add_data, examples_of, note, prepare
from minillm.cli.main import OK
from minillm.quantities import counted

RIGHT_OR_WRONG = ("accuracy", "exact_match")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="MODEL_A", help="folder of an encoder tuned for the task")
    parser.add_argument("second", metavar="MODEL_B", help="folder of another")
    add_data(parser)


def run(arguments: argparse.Namespace) -> int:
    from minillm.tasks import evaluation
    from minillm.tasks.significance import LEVEL

    prepare(arguments)
    models = [
        evaluation.load(arguments.task, model, arguments.max_length)
        for model in (arguments.first, arguments.second)
    ]
    found = []
    for path in arguments.data:
        examples = examples_of(arguments, path)
        for model in models:
            examples, notices = evaluation.known(model, examples, path, arguments.on_bad)
            note(notices)
        rows = compared(arguments, models, examples)
        found.append({"data": path, "examples": len(examples), "metrics": rows})
    if arguments.json:
        names = {"first": arguments.first, "second": arguments.second}
        print(json.dumps(names | {"task": arguments.task, "sets": found}))
        return OK
    print(f"A {arguments.first}\nB {arguments.second}")
    for one in found:
        print(f"{arguments.task}: {counted(one['examples'], 'example')} of {one['data']}")
        for name, row in one["metrics"].items():
            print(f"  {name.replace('_', ' '):<14} {told(row)}")
    print(f"significant: a two-sided p of the paired bootstrap below {1 - LEVEL:.2f}")
    return OK


def compared(
    arguments: argparse.Namespace, models: list[Any], examples: list[Any]
) -> dict[str, dict[str, Any]]:
    """By metric: both values, the difference with its interval, p, and which one is better."""
    from minillm.tasks import evaluation, significance

    measured = []
    for name, model in zip((arguments.first, arguments.second), models, strict=True):
        metrics, notices = evaluation.evaluate(model, examples)
        note([f"{name}: {notice}" for notice in notices])
        measured.append(metrics)
    rows: dict[str, dict[str, Any]] = {}
    for name, first in measured[0].items():
        second = measured[1][name]
        gap = significance.difference(first, second, arguments.resamples, arguments.seed)
        better = ("second" if gap.value > 0 else "first") if gap.significant else None
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

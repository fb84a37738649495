"""Figures with their intervals, of one model or of two."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minillm.cli.measuring import evaluate, note

if TYPE_CHECKING:
    from minillm.tasks.evaluation import Measure
    from minillm.tasks.metrics import Metric

RIGHT_OR_WRONG = ("accuracy", "exact_match", "acc", "acc_norm")


def figures(metrics: Mapping[str, Metric], arguments: argparse.Namespace) -> dict[str, Any]:
    """Value, low and high by metric; no interval where there is one example only."""
    from minillm.tasks.significance import interval

    found: dict[str, Any] = {}
    for name, metric in metrics.items():
        one = interval(metric, arguments.resamples, arguments.seed)
        found[name] = one._asdict()
        if len(metric) < 2:
            found[name] |= {"low": None, "high": None}
    return found


def shown(one: Mapping[str, Any], decimals: int = 4) -> str:
    """0.8123 (0.7900 to 0.8300)"""
    text = f"{one['value']:,.{decimals}f}"
    if one["low"] is None:
        return text
    return f"{text} ({one['low']:,.{decimals}f} to {one['high']:,.{decimals}f})"


def comparison(
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

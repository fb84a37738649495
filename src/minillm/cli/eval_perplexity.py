"""The part of `minillm eval` that tells of perplexity: a row a file, and all together."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from minillm.cli.figures import figures, shown
from minillm.cli.main import OK
from minillm.cli.measuring import write_json

if TYPE_CHECKING:
    from minillm.tasks.metrics import Metric

TOGETHER = "together"


def tell(
    arguments: argparse.Namespace,
    measure: Any,
    model: Any,
    measured: Sequence[Mapping[str, Metric]],
    result: dict[str, Any],
) -> int:
    from minillm.tasks.perplexity import figures as pooled

    for found, metrics in zip(result["sets"], measured, strict=True):
        found |= _sizes(metrics)
    if len(measured) > 1:
        rows = numpy.concatenate([metrics["perplexity"].statistics for metrics in measured])
        metrics = pooled(rows)
        texts = sum(found["examples"] for found in result["sets"])
        result[TOGETHER] = {"examples": texts, "metrics": figures(metrics, arguments)}
        result[TOGETHER] |= _sizes(metrics)
    result |= measure.stated(model)
    if write_json(arguments, result):
        _table(result)
    return OK


def _sizes(metrics: Mapping[str, Metric]) -> dict[str, int]:
    """What the figures are of, and how many units the interval draws from."""
    metric = metrics["perplexity"]
    _, tokens, size, characters = metric.statistics.sum(axis=0)
    return {
        "tokens": round(tokens),
        "bytes": round(size),
        "characters": round(characters),
        "units": len(metric),
    }


def _table(result: Mapping[str, Any]) -> None:
    led = f"{result['bos']} before each" if result["bos"] else "nothing before them"
    print(
        f"windows of {result['context']:,} tokens that begin {result['stride']:,} apart, {led}; "
        "in brackets 95 % intervals"
    )
    rows = [("data", "texts", "tokens", "perplexity", "bits per byte", "bits per character")]
    named = [(found["data"], found) for found in result["sets"]]
    named += [(TOGETHER, result[TOGETHER])] if TOGETHER in result else []
    for name, found in named:
        metrics = found["metrics"]
        rows.append(
            (
                name,
                f"{found['examples']:,}",
                f"{found['tokens']:,}",
                shown(metrics["perplexity"], 3),
                shown(metrics["bits_per_byte"]),
                shown(metrics["bits_per_character"]),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        sizes = zip(row, widths, strict=True)
        cells = [c.rjust(w) if 0 < k < 3 else c.ljust(w) for k, (c, w) in enumerate(sizes)]
        print("  ".join(cells).rstrip())

"""Several runs on one page: their curves over the same axes, what differs, what came out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from minillm.formats.files import atomic_write_text
from minillm.quantities import decimal, duration
from minillm.training import page
from minillm.training.curves import Chart, Curve, draw
from minillm.training.metrics import VALIDATED
from minillm.training.objective import heading
from minillm.training.report import LONG, series, smoothed
from minillm.training.runs import Told, differing

COLOURS = 8  # that the style has for curves


def write_comparison(path: str | os.PathLike[str], runs: Sequence[Told]) -> Path:
    """Write the page about `runs`; equal inputs give equal bytes."""
    target = Path(path)
    names = [run.name for run in runs]
    columns = ("", *names)
    settings = [(name, *map(page.in_words, row)) for name, row in differing(list(runs)).items()]
    body = (
        f"<header><p>Comparison of runs</p><h1>{page.text(', '.join(names))}</h1></header>\n"
        + page.section("Curves", *charts(runs))
        + page.section("What came out", page.columns_table("", columns, outcomes(runs), "numbers"))
        + page.section(
            "Settings that differ",
            page.columns_table("", columns, settings) if settings else "<p>None.</p>",
        )
    )
    atomic_write_text(target, page.document(f"{', '.join(names)}: runs compared", body))
    return target


def charts(runs: Sequence[Told]) -> list[str]:
    """A chart of the training loss, and one of each metric of validations, a curve a run."""
    measured = {key: None for run in runs for row in run.rows for key in row}
    keys = ["loss", *(key for key in measured if key.startswith(VALIDATED))]
    found = []
    for key in keys:
        curves = []
        for place, run in enumerate(runs):
            step, values = series(run.rows, key)
            if len(values):
                shown = smoothed(values) if len(values) >= LONG else values
                curves.append(Curve(run.name, f"line run{place % COLOURS}", step, shown))
        if curves:
            name = "Training loss" if key == "loss" else heading(key)
            unit = "nats per token" if key in ("loss", "val_loss") else "in validation"
            found.append(draw(Chart(name, unit, curves)))
    return found


def outcomes(runs: Sequence[Told]) -> list[tuple[str, ...]]:
    """Rows of a table, a column a run: how each ended, and what it measured last."""
    rows = [("state", *(run.state for run in runs))]
    rows.append(("steps", *(f"{run.summary.steps:,}" for run in runs)))
    rows.append(("tokens", *(_whole(run.summary.tokens) for run in runs)))
    rows.append(("time", *(_time(run.summary.elapsed_s) for run in runs)))
    rows.append(("tokens a second", *(_whole(run.summary.tokens_per_s) for run in runs)))
    rows.append(("training loss", *(_decimal(run.summary.loss) for run in runs)))
    last = [run.summary.final or {} for run in runs]
    for key in {key: None for row in last for key in row if key.startswith(VALIDATED)}:
        rows.append((f"last {heading(key).lower()}", *(_decimal(row.get(key)) for row in last)))
    for metric in {run.decides.metric: None for run in runs}:
        values = [run.best if run.decides.metric == metric else None for run in runs]
        rows.append((f"best {heading(metric).lower()}", *map(_decimal, values)))
    return [row for row in rows if any(row[1:])]


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _decimal(value: float | None) -> str:
    return "" if value is None else decimal(value, 4)

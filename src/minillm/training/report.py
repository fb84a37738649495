"""The report of a training run: one page that opens offline, `report.html`."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minillm.formats.files import atomic_write_text
from minillm.quantities import decimal
from minillm.training import metrics, page, steplog
from minillm.training.console import shorten
from minillm.training.curves import Chart, Curve, draw
from minillm.training.headline import headline, sentences
from minillm.training.metrics import VALIDATED, MovingAverage, Summary, summarise
from minillm.training.objective import BY_LOSS, Best, heading
from minillm.training.steplog import Row

SHOWN_SAMPLES, SAMPLE_LIMIT, PROMPT_LIMIT = 12, 1200, 300
SHOWN_EVALUATIONS = 60
LONG = 200  # from so many values on a curve is smoothed
SHOWN_SKIPS, SKIP_LIMIT = 20, 200
MARKED_SKIPS, MARK_LIMIT = 100, 60


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write `folder/report.html` from what the run recorded, and return its path.

    Reads `metrics.jsonl` (FileNotFoundError if missing) and, where they stand,
    `training/settings.json` (a flat object), `training/facts.json` (an object of objects: `data`,
    `model`, `environment`, ...) and `training/samples.jsonl` (`step`, `prompt`, `text`). ValueError
    names the file that is damaged. Equal inputs give equal bytes.
    """
    folder = Path(folder)
    rows = metrics.read(folder / "metrics.jsonl")
    settings = _read_object(folder / "training" / "settings.json")
    facts = _read_object(folder / "training" / "facts.json")
    samples_path = folder / "training" / "samples.jsonl"
    samples = steplog.read(samples_path) if samples_path.exists() else []
    name = folder.resolve().name
    best = _best(facts)
    summary = summarise(rows, best)
    body = (
        f"<header><p>Training report</p><h1>{page.text(name)}</h1>"
        f'<p class="lead">{page.text(sentences(summary, best))}</p></header>\n'
        + page.figures(headline(summary, facts, best))
        + page.section("Curves", loss_chart(rows, summary), _small_charts(rows, best))
        + page.section("Skipped steps", _skips(summary.skipped))
        + page.section("Samples", _samples(samples))
        + page.section("Evaluations", _evaluations(rows))
        + page.section("Settings and facts", _tables(settings, facts))
        + page.section("Go on from here", _commands(name, facts))
    )
    target = folder / "report.html"
    atomic_write_text(target, page.document(f"{name}: training report", body))
    return target


def loss_chart(rows: Sequence[Row], summary: Summary) -> str:
    """Training loss, raw and smoothed, validation loss with the best marked, skipped steps."""
    curves = _with_smoothed("training", *series(rows, "loss"))
    val_step, val_loss = series(rows, "val_loss")
    best = None
    if len(val_step):
        curves.append(Curve("validation", "points", val_step, val_loss))
    if summary.best is not None and "val_loss" in summary.best:
        value = summary.best["val_loss"]
        best = (summary.best["step"], value, f"best {decimal(value)}")
    if not curves:
        return ""
    skipped = summary.skipped[:: math.ceil(len(summary.skipped) / MARKED_SKIPS) or 1]
    marks = [(row["step"], shorten(str(row["skipped"]), MARK_LIMIT)) for row in skipped]
    return draw(Chart("Loss", "nats per token", curves, marks=marks, best=best))


def series(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that hold `key`."""
    pairs = [(float(row["step"]), float(row[key])) for row in rows if key in row]
    return tuple(np.array(pairs, dtype=np.float64).reshape(-1, 2).T)  # type: ignore[return-value]


def _with_smoothed(label: str, step: np.ndarray, values: np.ndarray) -> list[Curve]:
    """A long curve faint with its average over it, a short one alone, none for no values."""
    if len(values) < LONG:
        return [Curve(label, "line", step, values)] if len(values) else []
    raw = Curve(label, "raw", step, values)
    return [raw, Curve(f"{label}, smoothed", "line", step, smoothed(values))]


def smoothed(values: np.ndarray) -> np.ndarray:
    """The running average run forwards, then backwards over the result, so that it does not lag."""
    decay = 1 - 1 / min(100.0, max(1.0, len(values) / 100))

    def run(sequence: np.ndarray) -> np.ndarray:
        average = MovingAverage(decay)
        return np.array([average.update(value) for value in sequence.tolist()])

    return run(run(values)[::-1])[::-1]


def _small_charts(rows: Sequence[Row], best: Best) -> str:
    charts = []
    if best.metric != "val_loss":
        step, values = series(rows, best.metric)
        if len(values):
            points = [Curve(heading(best.metric), "points", step, values)]
            charts.append(draw(Chart(heading(best.metric), "in validation", points, 120)))
    for key, name, unit in (
        ("lr", "Learning rate", "per step"),
        ("grad_norm", "Gradient norm", "before clipping"),
        ("tokens_per_s", "Speed", "tokens per second"),
    ):
        step, values = series(rows, key)
        if len(values):
            exact = [Curve(name, "line", step, values)]
            curves = exact if key == "lr" else _with_smoothed(name, step, values)
            charts.append(draw(Chart(name, unit, curves, 120, from_zero=key != "grad_norm")))
    return f'<div class="small">{"".join(charts)}</div>' if charts else ""


def _skips(skipped: Sequence[Row]) -> str:
    if not skipped:
        return ""
    shown = [
        (f"{row['step']:,}", shorten(str(row["skipped"]), SKIP_LIMIT))
        for row in skipped[:SHOWN_SKIPS]
    ]
    caption = f"{len(shown)} of {len(skipped):,} marked steps, earliest first"
    return page.columns_table(caption, ("Step", "Reason"), shown)


def _samples(samples: Sequence[Row]) -> str:
    blocks = []
    for row in spread(samples, SHOWN_SAMPLES):
        prompt, written = str(row.get("prompt", "")), str(row.get("text", ""))
        written = written.removeprefix(prompt)
        blocks.append(
            f'<figure class="sample"><figcaption>Step {row["step"]:,}</figcaption>'
            f'<pre dir="auto"><b>{page.text(shorten(prompt, PROMPT_LIMIT))}</b>'
            f"{page.text(shorten(written, SAMPLE_LIMIT))}</pre></figure>"
        )
    if len(samples) > len(blocks):
        blocks.append(f"<p>{len(blocks)} of {len(samples):,} samples are shown.</p>")
    return "".join(blocks)


def _evaluations(rows: Sequence[Row]) -> str:
    found = [row for row in rows if "val_loss" in row]
    if not found:
        return ""
    shown = spread(found, SHOWN_EVALUATIONS)
    caption = f"{len(shown)} of {len(found):,} evaluations"
    measured = {name: None for row in found for name in row}  # in the order of the file
    names = [name for name in measured if name.startswith(VALIDATED)]
    heads = ("Step", "Tokens", *map(heading, names))
    cells = [
        (
            f"{row['step']:,}",
            f"{row['tokens']:,}" if "tokens" in row else "",
            *(decimal(row[name], 4) if name in row else "" for name in names),
        )
        for row in shown
    ]
    return page.columns_table(caption, heads, cells, style="numbers")


def spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` rows, evenly spread, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]


def _tables(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    loose = {name: value for name, value in facts.items() if not isinstance(value, dict | list)}
    tables = [page.facts_table("Settings", settings), page.facts_table("Facts", loose)]
    for name, group in facts.items():
        if isinstance(group, dict):
            shown = {key: _grouped(value) for key, value in group.items()}
            tables.append(page.facts_table(name.replace("_", " ").capitalize(), shown))
    return f'<div class="tables">{"".join(tables)}</div>' if any(tables) else ""


def _commands(name: str, facts: Mapping[str, Any]) -> str:
    """The commands of the facts, {run} in them being the folder; else those of a language model."""
    shown = name if re.fullmatch(r"[\w.-]+", name) else shlex.quote(name)
    given = facts.get("commands", ["minillm generate {run}", "minillm train --resume {run}"])
    lines = "\n".join(page.text(line.replace("{run}", shown)) for line in given)
    return f"<p>From the folder that holds this one:</p><pre><code>{lines}</code></pre>"


def _best(facts: Mapping[str, Any]) -> Best:
    found = facts.get("decides")
    return Best(*found) if isinstance(found, list) else BY_LOSS


def _grouped(value: object) -> object:
    """Large whole numbers with separators."""
    return f"{value:,}" if type(value) is int and value >= 10_000 else value


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty where there is no such file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"report: {path.name}: {error}, needs a JSON object") from error
    if not isinstance(found, dict):
        raise ValueError(f"report: {path.name}: a {type(found).__name__}, needs a JSON object")
    return found

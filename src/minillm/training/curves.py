"""Curves of a run as inline SVG that keeps its type size at any width.

Across, positions are per cent of the width; upwards, pixels of a fixed height. Only the lines
stretch (a nested SVG of 1000 units, strokes not scaled), so labels and points stay sharp and round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minillm.quantities import count, decimal, number
from minillm.training.axis import Axis, axis_around
from minillm.training.page import text

SPAN = 1000  # drawing units across
BUCKETS = 400  # a longer curve is drawn through first, lowest, highest and last of each
TEXT_HEIGHT = 22


@dataclass(frozen=True)
class Curve:
    """One or more values `y` at steps `x` that never fall, drawn as raw, line or points."""

    label: str
    style: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Chart:
    """Curves over training steps on one value axis.

    `marks` are steps to point out, with the reason. `best` is a point to name.
    """

    name: str
    unit: str
    curves: Sequence[Curve]
    height: int = 320
    from_zero: bool = False
    marks: Sequence[tuple[int, str]] = ()
    best: tuple[int, float, str] | None = None


def draw(chart: Chart) -> str:
    """The chart as a `<figure>`: heading, legend, axes, curves, marks."""
    x_axis, y_axis = step_axis(chart), value_axis(chart)
    legend = "".join(f'<span class="key {c.style}">{text(c.label)}</span>' for c in chart.curves)
    if chart.marks:
        legend += '<span class="key mark">skipped step</span>'
    parts = [_grid(chart, x_axis, y_axis)]
    for curve in chart.curves:
        draw_curve = _points if curve.style == "points" else _line
        parts.append(draw_curve(chart, curve, x_axis, y_axis))
    parts.append(_marks(chart, x_axis))
    parts.append(_best(chart, x_axis, y_axis))
    log = " (logarithmic)" if y_axis.log else ""
    return (
        f'<figure class="chart"><figcaption><b>{text(chart.name)}</b> '
        f'<span class="unit">{text(chart.unit)}{log}</span>{legend}</figcaption>'
        f'<div class="plot"><svg role="img" aria-label="{text(_in_words(chart))}" '
        f'width="100%" height="{chart.height}" data-x="{x_axis.low!r} {x_axis.high!r}" '
        f'data-y="{y_axis.low!r} {y_axis.high!r} {int(y_axis.log)}">{"".join(parts)}</svg>'
        f'<output class="readout"></output></div></figure>'
    )


def step_axis(chart: Chart) -> Axis:
    """Steps from 0 to the last one measured or marked."""
    last = [float(c.x[-1]) for c in chart.curves] + [float(step) for step, _ in chart.marks]
    return Axis(0.0, max([1.0, *last]))


def value_axis(chart: Chart) -> Axis:
    """The range of all values of all curves."""
    low = min(float(curve.y.min()) for curve in chart.curves)
    high = max(float(curve.y.max()) for curve in chart.curves)
    return axis_around(low, high, from_zero=chart.from_zero)


def thin(x: np.ndarray, y: np.ndarray, buckets: int = BUCKETS) -> tuple[np.ndarray, np.ndarray]:
    """At most four points of each of `buckets` equal ranges of `x`: no peak or dip is lost."""
    if len(x) <= 2 * buckets:
        return x, y
    edges = np.searchsorted(x, np.linspace(x[0], x[-1], buckets + 1)[1:-1], side="left")
    keep: set[int] = set()
    for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), len(x)]):
        if start < stop:
            part = y[start:stop]
            keep |= {start, start + int(part.argmin()), start + int(part.argmax()), stop - 1}
    chosen = sorted(keep)
    return x[chosen], y[chosen]


def _grid(chart: Chart, x_axis: Axis, y_axis: Axis) -> str:
    parts = []
    ticks = y_axis.ticks(max(4, chart.height // 45))
    for tick, label in zip(ticks, y_axis.labels(ticks)):
        y = _y(chart, y_axis, tick)
        parts.append(
            f'<line class="grid" x2="100%" y1="{y}" y2="{y}"/>'
            f'<text class="y" x="-8" y="{y}" dy=".35em">{label}</text>'
        )
    for tick in x_axis.ticks():
        if tick == int(tick):
            x = _x(x_axis, tick)
            label = f"{tick:,.0f}" if tick < 1e4 else count(tick).replace(".0", "")
            parts.append(
                f'<line class="tick" x1="{x}" x2="{x}" y1="{chart.height}" '
                f'y2="{chart.height + 4}"/>'
                f'<text class="x" x="{x}" y="{chart.height + 18}">{label}</text>'
            )
    parts.append(f'<line class="axis" x2="100%" y1="{chart.height}" y2="{chart.height}"/>')
    parts.append(f'<text class="x name" x="100%" y="{chart.height + 34}">step</text>')
    return "".join(parts)


def _line(chart: Chart, curve: Curve, x_axis: Axis, y_axis: Axis) -> str:
    """The curve as one path; a single point is a stroke of no length with round ends."""
    x, y = thin(curve.x, curve.y)
    across = SPAN * x_axis.fraction(x)
    down = chart.height * (1 - y_axis.fraction(y))
    path = "L".join(f"{a:.1f},{d:.1f}" for a, d in zip(across, down))
    style, end = (f"{curve.style} dot", "h0") if len(x) == 1 else (curve.style, "")
    return (
        f'<svg viewBox="0 0 {SPAN} {chart.height}" preserveAspectRatio="none" width="100%" '
        f'height="{chart.height}"><path class="{style}" '
        f'data-label="{text(curve.label)}" d="M{path}{end}"/></svg>'
    )


def _points(chart: Chart, curve: Curve, x_axis: Axis, y_axis: Axis) -> str:
    x, y = thin(curve.x, curve.y, BUCKETS // 4)
    joined = _line(chart, Curve(curve.label, "joined", x, y), x_axis, y_axis)
    return joined + "".join(
        f'<circle class="point" cx="{_x(x_axis, a)}" cy="{_y(chart, y_axis, v)}" r="3">'
        f"<title>step {a:.0f}: {text(curve.label)} {decimal(v)}</title></circle>"
        for a, v in zip(x.tolist(), y.tolist())
    )


def _marks(chart: Chart, x_axis: Axis) -> str:
    return "".join(
        f'<line class="mark" x1="{_x(x_axis, step)}" x2="{_x(x_axis, step)}" '
        f'y1="{chart.height - 12}" y2="{chart.height}"><title>step {step}: {text(why)}'
        f"</title></line>"
        for step, why in chart.marks
    )


def _best(chart: Chart, x_axis: Axis, y_axis: Axis) -> str:
    if chart.best is None:
        return ""
    step, value, label = chart.best
    side, y = float(x_axis.fraction(step)), float(_y(chart, y_axis, value))
    anchor = "start" if side < 0.2 else "end" if side > 0.8 else "middle"
    baseline = y - 12 if y > TEXT_HEIGHT else y + TEXT_HEIGHT
    return (
        f'<circle class="best" cx="{_x(x_axis, step)}" cy="{y}" r="5.5"/>'
        f'<text class="best" x="{_x(x_axis, step)}" y="{baseline:.1f}" text-anchor="{anchor}">'
        f"{text(label)}</text>"
    )


def _in_words(chart: Chart) -> str:
    """What the chart shows, for those who cannot see it."""
    curves = [
        f"{c.label} from {number(float(c.y[0]))} at step {c.x[0]:.0f} to {number(float(c.y[-1]))} "
        f"at step {c.x[-1]:.0f}, lowest {number(float(c.y.min()))}, highest "
        f"{number(float(c.y.max()))}"
        for c in chart.curves
    ]
    marks = [f"{len(chart.marks)} skipped steps marked"] if chart.marks else []
    return f"{chart.name}, {chart.unit}, by step: {'; '.join(curves + marks)}."


def _x(axis: Axis, value: float) -> str:
    return f"{100 * float(axis.fraction(value)):.2f}%"


def _y(chart: Chart, axis: Axis, value: float) -> str:
    return f"{chart.height * (1 - float(axis.fraction(value))):.1f}"

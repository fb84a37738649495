"""What a person sees while a model trains: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

from minillm import device_memory, devices
from minillm.machine import memory
from minillm.quantities import count, decimal, duration, size
from minillm.training.console import Console, shorten, visible
from minillm.training.metrics import MovingAverage
from minillm.training.objective import plain

REDRAW_SECONDS = 0.1
BAR_COLUMNS = 12  # percentage, frame and the least bar worth drawing


class Part(NamedTuple):
    """A piece of the line; on a narrow terminal the highest `spare` goes first."""

    text: str
    spare: int


class Progress:
    """Shows step, losses, speed, memory and time left of a training run on `stream`.

    A terminal gets a bar that redraws itself; anything else a plain line at the first step, at
    each evaluation or event, and otherwise at most one every `every_seconds`. `budget_s` is the
    time the run may take from now, `counted` what a step is called; of a `device` that is a GPU the
    memory is shown too. `stream=None` is `sys.stderr`.
    Nothing that is shown can raise an error: a console that went away is given up, and
    `console.lost` says why.
    """

    def __init__(
        self,
        total_steps: int | None,
        stream: TextIO | None = None,
        every_seconds: float = 10.0,
        budget_s: float | None = None,
        *,
        counted: str = "step",
        device: str = devices.CPU,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.counted, self.device = counted, device
        self.console = Console(sys.stderr if stream is None else stream)
        self.total_steps = total_steps
        self.budget_s = budget_s
        self._clock = clock
        self._begin = clock()
        self._on_terminal = self.console.isatty()
        self._every = REDRAW_SECONDS if self._on_terminal else every_seconds
        self._due = self._begin
        self._first: tuple[float, int] | None = None
        self._smooth = MovingAverage()
        self._seen: dict[str, float] = {}
        self._validated: dict[str, float] = {}
        self._step = 0
        self._shown_step: int | None = None
        self._bar: Any = None

    def update(
        self,
        step: int,
        *,
        loss: float | None = None,
        tokens_per_s: float | None = None,
        event: str | None = None,
        **validated: float | None,
    ) -> None:
        """Take in what step `step` measured, and show it if it is time. Units as in metrics.KEYS.

        `validated` are metrics of a validation, by name. They and an `event` ("saved") are always
        shown.
        """
        now = self._clock()
        self._step = step
        if self._first is None:
            self._first = (now, step)
        if loss is not None:
            self._smooth.update(loss)
            self._seen["loss"] = loss
        measured = {name: value for name, value in validated.items() if value is not None}
        if measured:
            self._validated = measured
        if tokens_per_s is not None:
            self._seen["rate"] = tokens_per_s
        if event is not None and self._on_terminal:
            self.message(f"step {step}: {event}")
        if now >= self._due or measured or event is not None:
            self._show(now, event)

    def message(self, text: str) -> None:
        """Print `text` on lines of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.clear()
        self.console.write(visible(text) + "\n")
        if self._bar is not None:
            self._bar.refresh()

    def sample(self, text: str, limit: int = 400) -> None:
        """Show at most `limit` characters of what the model writes, set off from the rest."""
        lines = visible(shorten(text, limit)).split("\n")
        self.message("\n".join(f"  | {line}" for line in lines))

    def close(self) -> None:
        """Show the last state and leave the cursor on a fresh line."""
        if self._shown_step != self._step and self._first is not None:
            self._show(self._clock(), None)
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _show(self, now: float, event: str | None) -> None:
        self._due = now + self._every
        self._shown_step = self._step
        parts = self._parts(now)
        if self._on_terminal:
            self._draw(parts, self._fraction(now))
        else:
            texts = [part.text for part in parts] + ([] if event is None else [event])
            self.console.write(visible("  ".join(texts)) + "\n")

    def _parts(self, now: float) -> list[Part]:
        seen = self._seen
        of_total = "" if self.total_steps is None else f"/{self.total_steps}"
        parts = [Part(f"{self.counted} {self._step}{of_total}", 0)]
        if "loss" in seen:
            smooth = decimal(self._smooth.value)
            parts.append(Part(f"loss {decimal(seen['loss'])} (smooth {smooth})", 2))
        if self._validated:
            parts.append(Part(_shown(self._validated), 3))
        if math.isfinite(seen.get("rate", math.nan)):
            parts.append(Part(f"{count(seen['rate'])} tok/s", 4))
        held = memory()
        if held.rss_mb is not None:
            parts.append(Part(size(held.rss_mb * 1e6), 5))
        taken = device_memory.held(self.device)
        if taken is not None:
            parts.append(Part(f"{size(taken)} of {self.device}", 5))
        left = self._seconds_left(now)
        if left is not None:
            parts.append(Part(f"{duration(left)} left", 1))
        return parts

    def _seconds_left(self, now: float) -> float | None:
        bounds = []
        if self.budget_s is not None:
            bounds.append(self.budget_s - (now - self._begin))
        if self.total_steps is not None and self._first is not None:
            first_time, first_step = self._first
            if self._step > first_step:
                pace = (now - first_time) / (self._step - first_step)
                bounds.append((self.total_steps - self._step) * pace)
        return max(0.0, min(bounds)) if bounds else None

    def _fraction(self, now: float) -> float | None:
        """Share of the run that is done, by steps or by time, whichever ends it first."""
        shares = []
        if self.total_steps:
            shares.append(self._step / self.total_steps)
        if self.budget_s:
            shares.append((now - self._begin) / self.budget_s)
        return min(1.0, max(shares)) if shares else None

    def _draw(self, parts: list[Part], fraction: float | None) -> None:
        columns = self.console.columns() - 1
        line = _fit(parts, columns)
        with_bar = fraction is not None and len(line) + BAR_COLUMNS <= columns
        if self._bar is None:
            self._bar = _open_bar(self.console)
        self._bar.ncols = columns
        self._bar.n = fraction or 0.0
        self._bar.bar_format = "{percentage:3.0f}%|{bar}| {desc}" if with_bar else "{desc}"
        self._bar.set_description_str(line, refresh=False)
        self._bar.refresh()


def _shown(validated: Mapping[str, float]) -> str:
    """`val 2.1021 (2.41 bits/byte)`, and what else was measured."""
    notes = []
    for name, value in validated.items():
        if name == "val_bpb":
            notes.append(f"{decimal(value, 2)} bits/byte")
        elif name != "val_loss":
            notes.append(f"{plain(name)} {decimal(value)}")
    loss = decimal(validated.get("val_loss", math.nan))
    return f"val {loss} ({', '.join(notes)})" if notes else f"val {loss}"


def _fit(parts: list[Part], columns: int) -> str:
    """The parts in one line, the most spare left out until it fits."""
    while len(line := "  ".join(part.text for part in parts)) > columns and len(parts) > 1:
        parts = [part for part in parts if part is not max(parts, key=lambda p: p.spare)]
    return line[:columns]


def _open_bar(console: Console) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no watching thread: this class redraws when it is told to

    return Bar(total=1.0, file=console, bar_format="{desc}", leave=True, mininterval=0)

"""Telling trackers of a run from a thread of its own, so that none of them can hold the run up.

What goes wrong with a tracker is said once, and the run goes on without it.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from minillm.formats import hf
from minillm.training.run_folder import INNER
from minillm.training.trackers.clients import CLIENTS, EXTRAS, About, settings_of

KEPT = "tracking.json"
NAMES = tuple(CLIENTS)
WAITING = 4096  # rows that may wait
PATIENCE, HURRY = 60.0, 2.0  # seconds for the last of them; where an error ended the run
CRASHED = "crashed"


def require(names: Iterable[str]) -> None:
    """ImportError naming the extra of a tracker that is not installed."""
    for name in names:
        if find_spec(EXTRAS[name]) is None:
            raise ImportError(
                f"track: {name} needs the package {EXTRAS[name]}, which is not installed; "
                f"pip install 'minillm[{name}]'"
            )


def names_of(folder: Path, asked: Iterable[str]) -> list[str]:
    """The trackers of a run: those of its earlier sittings, and those asked for now."""
    path = folder / INNER / KEPT
    kept = [name for name in hf.read_json(path) if name in CLIENTS] if path.exists() else []
    return list(dict.fromkeys([*kept, *asked]))


class Tracking:
    """Tells the trackers `names` of the run in `folder`, which goes on after `step`."""

    def __init__(self, names: Sequence[str], folder: Path, step: int) -> None:
        self._path = folder / INNER / KEPT
        self._kept = hf.read_json(self._path) if self._path.exists() else {}
        before = {name: dict(self._kept.get(name, {})) for name in names}
        self._about = About(folder, step, settings_of(folder / INNER / "settings.json"))
        self._rows: queue.Queue[tuple[int, dict[str, float]] | str] = queue.Queue(WAITING)
        self._notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lost = 0
        self._thread = threading.Thread(target=self._work, args=(before,), daemon=True)
        if names:
            self._kept |= {name: self._kept.get(name, {}) for name in names}
            hf.write_json(self._path, self._kept)  # known again if this sitting is killed
            self._thread.start()

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Tell of the numbers of a row; those that are not finite are left out."""
        if not self._thread.is_alive():
            return
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        try:
            self._rows.put_nowait((step, numbers))
        except queue.Full:
            self._lost += 1

    def notices(self) -> list[str]:
        """What there is to be said since this was last asked."""
        found = []
        while not self._notices.empty():
            found.append(self._notices.get())
        return found

    def close(self, outcome: str) -> list[str]:
        """Let the last rows be told, as long as patience lasts; what there is to be said."""
        patience = HURRY if outcome == CRASHED else PATIENCE
        if self._thread.is_alive():
            with suppress(queue.Full):
                self._rows.put(outcome, timeout=patience)
                self._thread.join(patience)
            if self._thread.is_alive():
                self._notices.put(f"track: not done after {patience:.0f} s, left behind")
        if self._lost:
            self._notices.put(f"track: too slow for the run, {self._lost:,} rows were left out")
        return self.notices()

    def _work(self, before: Mapping[str, Mapping[str, str]]) -> None:
        live: dict[str, Any] = {}
        for name, kept in before.items():
            client: Any = CLIENTS[name]()
            if self._guarded(name, self._begin, name, client, kept):
                live[name] = client
        while live:
            row = self._rows.get()
            for name, client in list(live.items()):
                if isinstance(row, str):
                    self._guarded(name, client.end, row)
                elif not self._guarded(name, client.log, *row):
                    del live[name]
            if isinstance(row, str):
                return

    def _begin(self, name: str, client: Any, kept: Mapping[str, str]) -> None:
        self._kept[name] = client.begin(self._about, kept)
        hf.write_json(self._path, self._kept)

    def _guarded(self, name: str, act: Callable[..., Any], *given: Any) -> bool:
        """Whether it went well; any fault of a tracker ends that tracker, not the run."""
        try:
            act(*given)
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            self._notices.put(f"track: {name} failed ({said}), the run goes on without it")
            return False
        return True

"""Folders of runs: finding them, and what each is and came to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minillm.formats import hf, safetensors
from minillm.formats.lock import held
from minillm.training import metrics, state
from minillm.training.metrics import Summary, summarise
from minillm.training.objective import BY_LOSS, Best
from minillm.training.run_folder import INNER, OUTCOME
from minillm.training.steplog import Row

DEPTH = 3  # folders below the one that is searched
STATES = ("running", "done", "stopped", "diverged", "crashed")


@dataclass(frozen=True)
class Told:
    """A run as its folder tells it; `when` it was last written, in seconds since 1970."""

    name: str
    folder: Path
    state: str
    when: float
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    rows: list[Row] = field(repr=False)
    decides: Best
    summary: Summary

    @property
    def command(self) -> str:
        return str(self.settings.get("command", "train"))

    @property
    def data(self) -> str:
        files = self.settings.get("files")
        names = [Path(str(name)).name for name in files] if isinstance(files, list) else []
        return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")

    @property
    def model(self) -> str:
        """The base of a run that tunes, the family of one that begins with nothing."""
        base = self.settings.get("base")
        model = self.facts.get("model")
        family = model.get("family", "") if isinstance(model, dict) else ""
        return Path(str(base)).name if base else str(family)

    @property
    def parameters(self) -> int | None:
        model = self.facts.get("model")
        found = model.get("parameters") if isinstance(model, dict) else None
        return found if isinstance(found, int) else None

    @property
    def best(self) -> float | None:
        """The best value of the metric that decides."""
        row = self.summary.best
        return None if row is None else row[self.decides.metric]


@dataclass
class Found:
    """Runs, folders of runs that cannot be read with the reason, and folders that hold none."""

    runs: list[Told] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


def find(top: str | os.PathLike[str]) -> Found:
    """The runs in `top` and up to DEPTH folders below it, by name.

    FileNotFoundError or NotADirectoryError as the system has it.
    """
    found, top = Found(), Path(top)
    os.listdir(top)  # what is not there is an error, not a folder without runs
    if is_run(top):
        _take(top, top.resolve().name, found)
    else:
        _search(top, "", DEPTH, found)
    return found


def is_run(folder: Path) -> bool:
    return (folder / INNER / "settings.json").is_file()


def _search(folder: Path, prefix: str, depth: int, found: Found) -> bool:
    """Whether there is a run below; folders in which there is none are named."""
    any_run = False
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        name = f"{prefix}{path.name}"
        if is_run(path):
            _take(path, name, found)
            any_run = True
            continue
        foreign = len(found.foreign)
        try:
            below = depth > 1 and _search(path, f"{name}/", depth - 1, found)
        except OSError as error:
            found.damaged.append((name, error.strerror or str(error)))
            continue
        if not below:
            found.foreign[foreign:] = [name]  # those in it go without saying
        any_run = any_run or below
    return any_run


def _take(folder: Path, name: str, found: Found) -> None:
    try:
        found.runs.append(read(folder, name))
    except (OSError, ValueError, KeyError, TypeError) as error:
        found.damaged.append((name, " ".join(str(error).split())))


def read(folder: str | os.PathLike[str], name: str | None = None) -> Told:
    """A run from its folder; ValueError for damaged files, FileNotFoundError for none."""
    folder = Path(folder)
    settings = hf.read_json(folder / INNER / "settings.json")
    facts_path, log = folder / INNER / "facts.json", folder / "metrics.jsonl"
    facts = hf.read_json(facts_path) if facts_path.exists() else {}
    rows = metrics.read(log) if log.exists() else []
    best = _decides(facts["decides"]) if "decides" in facts else BY_LOSS
    newest = log if log.exists() else folder / INNER / "settings.json"
    return Told(
        name or folder.name,
        folder,
        state_of(folder),
        newest.stat().st_mtime,
        settings,
        facts,
        rows,
        best,
        summarise(rows, best),
    )


def _decides(found: Any) -> Best:
    match found:
        case [str(metric), bool(highest)]:
            return Best(metric, highest)
    raise ValueError(
        f"facts.json: decides is {found!r}, a metric and whether its highest value is best are "
        "needed"
    )


def state_of(folder: Path) -> str:
    """One of STATES: what the run said at its end; without a word it crashed, or still runs.

    Runs that ended before outcomes were written are judged by their last save and their report.
    """
    if held(folder / INNER):
        return "running"
    path = folder / INNER / OUTCOME
    if path.exists():
        outcome = hf.read_json(path).get("outcome")
        if outcome not in STATES:
            raise ValueError(f"{path.name}: outcome {outcome!r}, one of {', '.join(STATES)}")
        return str(outcome)
    if not (folder / "report.html").exists():
        return "crashed"
    return "done" if _progress(folder / INNER) >= 1 else "stopped"


def _progress(folder: Path) -> float:
    """How far the newest save is, 0 to 1, from its header."""
    for path in sorted(folder.glob(state.PATTERN), reverse=True)[:1]:
        _, metadata = safetensors.header(path)
        return float(json.loads(metadata["minillm"])["counters"]["progress"])
    return 0.0


def differing(runs: list[Told]) -> dict[str, list[Any]]:
    """The settings in which runs differ, by name: the value of each run, None where it has none."""
    names = {name: None for run in runs for name in ("command", *run.settings)}
    values = {
        name: [run.command if name == "command" else run.settings.get(name) for run in runs]
        for name in names
    }
    return {name: row for name, row in values.items() if any(one != row[0] for one in row)}

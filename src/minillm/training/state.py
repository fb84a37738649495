"""Training states on disk: everything a run needs to go on, in one file that is whole or absent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minillm.formats import safetensors

KEPT = 2
PATTERN = "state-*.safetensors"


@dataclass
class Counters:
    """Where a run stands, apart from arrays. Randomness is a function of (seed, step) alone."""

    step: int = 0
    progress: float = 0.0  # of the run, 0 to 1
    samples: int = 0
    tokens: int = 0
    best: float | None = None  # of the metric that decides
    best_step: int | None = None
    no_better: int = 0  # validations since
    skipped: int = 0
    skipped_in_a_row: int = 0


@dataclass
class State:
    """Counters, arrays by name (model/..., m/..., v/...), and what the run was made of."""

    counters: Counters
    optimizer_steps: int
    fingerprint: str
    arrays: dict[str, Any] = field(default_factory=dict)


def path_of(folder: Path, step: int) -> Path:
    return folder / f"state-{step:08d}.safetensors"


def save(folder: Path, state: State) -> Path:
    """Write the state of its step; then drop all but the last two."""
    content = json.dumps(
        {
            "counters": asdict(state.counters),
            "optimizer_steps": state.optimizer_steps,
            "fingerprint": state.fingerprint,
        },
        sort_keys=True,
    )
    path = path_of(folder, state.counters.step)
    safetensors.write(path, state.arrays, {"minillm": content})
    passed = [old for old in sorted(folder.glob(PATTERN)) if old <= path]
    for old in passed[:-KEPT]:  # a later one is damaged, or it would have been resumed from
        old.unlink(missing_ok=True)
    return path


def load_latest(folder: Path) -> tuple[State, list[str]]:
    """The newest undamaged state, and a line for each damaged one that was passed over.

    FileNotFoundError if there is none at all, ValueError if all are damaged.
    """
    paths = sorted(folder.glob(PATTERN), reverse=True)
    if not paths:
        raise FileNotFoundError(
            f"resume: {folder} holds no saved state, at least 1 is needed; a run that ended "
            "before its first save is to be deleted and begun anew"
        )
    notices: list[str] = []
    for path in paths:
        try:
            return _load(path), notices
        except (ValueError, KeyError, TypeError) as error:
            notices.append(f"passed over {path.name}: {error}")
    raise ValueError(f"resume: every saved state in {folder} is damaged ({notices[0]})")


def _load(path: Path) -> State:
    arrays, metadata = safetensors.verify(path)
    content = json.loads(metadata["minillm"])
    counters = content["counters"]
    if "best_val_loss" in counters:  # its name before other metrics could decide
        counters["best"] = counters.pop("best_val_loss")
    return State(
        Counters(**counters),
        content["optimizer_steps"],
        content["fingerprint"],
        arrays,
    )

"""TensorBoard, Weights & Biases and MLflow, each through its own client.

A tracker is begun with what describes the run and what it kept of earlier sittings, and gives what
is to be kept for the next; then it is told of each row of metrics, and of the end.
"""

from __future__ import annotations

import json
import netrc
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

EXTRAS = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}  # what is imported
PROJECT = "minillm"
MOST_TEXT = 500  # characters of a parameter, as MLflow has it


@dataclass(frozen=True)
class About:
    """A run: its folder, the step it goes on after, its settings by name."""

    folder: Path
    step: int
    settings: Mapping[str, Any]


class Client(Protocol):
    def begin(self, about: About, kept: Mapping[str, str]) -> dict[str, str]: ...

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def end(self, outcome: str) -> None: ...


class TensorBoard:
    """Event files in the folder of the run; what a crash wrote after the last save is purged."""

    def begin(self, about: About, kept: Mapping[str, str]) -> dict[str, str]:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            logdir=str(about.folder / "tensorboard"),
            purge_step=about.step + 1 if kept else None,
            filename_suffix=f".{time.time_ns()}",  # two sittings may begin in one second
        )
        if not kept:
            lines = [f"    {name}: {value}" for name, value in about.settings.items()]
            self._writer.add_text("settings", "\n".join(lines), 0)
        return {"folder": "tensorboard"}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def end(self, outcome: str) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B: offline, beside the run, where nobody is logged in."""

    def begin(self, about: About, kept: Mapping[str, str]) -> dict[str, str]:
        import wandb

        id = kept.get("id") or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=about.folder.resolve().name,
            id=id,
            resume="allow",
            dir=str(about.folder),
            config=dict(about.settings),
            mode=os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline"),  # type: ignore[arg-type]
            settings=wandb.Settings(silent=True, console="off"),
        )
        return {"id": id}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def end(self, outcome: str) -> None:
        self._run.finish(exit_code=0 if outcome in ("done", "stopped") else 1)


def _logged_in() -> bool:
    """Whether there is a key, so that the client would not ask for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


class MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI or in `mlruns` beside the folder of the run."""

    def begin(self, about: About, kept: Mapping[str, str]) -> dict[str, str]:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder is asked for
        from mlflow.tracking import MlflowClient

        here = (about.folder.resolve().parent / "mlruns").as_uri()
        uri = kept.get("uri") or os.environ.get("MLFLOW_TRACKING_URI") or here
        self._client = MlflowClient(tracking_uri=uri)
        self._id = kept.get("run") or self._new_run(about)
        if "run" in kept:
            self._client.update_run(self._id, "RUNNING")
        return {"uri": uri, "run": self._id}

    def _new_run(self, about: About) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=about.folder.resolve().name)
        for key, value in about.settings.items():
            self._client.log_param(run.info.run_id, key, str(value)[:MOST_TEXT])
        return str(run.info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, outcome: str) -> None:
        status = {"done": "FINISHED", "stopped": "KILLED"}.get(outcome, "FAILED")
        self._client.set_terminated(self._id, status)


CLIENTS: dict[str, type[Client]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of a run, one text or number each."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    plain = (str, int, float, bool)
    return {
        name: value if isinstance(value, plain) else json.dumps(value)
        for name, value in content.items()
    }

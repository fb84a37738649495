"""The part of `minillm finetune` that gives an encoder a task."""

from __future__ import annotations

import argparse

from minillm.cli.training_run import drive, tuning_run
from minillm.tasks import tuning
from minillm.tasks.settings import TaskSettings


def run(arguments: argparse.Namespace) -> int:
    trainer = tuning_run(arguments, TaskSettings, tuning)
    trial = "QUESTION TEXT" if trainer.settings.task == "qa" else '"..."'
    return drive(trainer, arguments, f"minillm task {trainer.settings.task} {{run}} {trial}")

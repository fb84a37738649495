"""The part of `minillm finetune` that gives an encoder a task."""

from __future__ import annotations

import argparse
from pathlib import Path

from minillm.cli.main import tell
from minillm.cli.training_run import drive, given, refuse_changes, require_later
from minillm.tasks import tuning
from minillm.tasks.settings import TaskSettings
from minillm.training import options, run_folder
from minillm.training.trainer import Trainer


def run(arguments: argparse.Namespace) -> int:
    trainer = _new(arguments) if arguments.resume is None else _resumed(arguments)
    trial = "QUESTION TEXT" if trainer.settings.task == "qa" else '"..."'
    return drive(
        trainer, arguments.stop_after, f"minillm task {trainer.settings.task} {{run}} {trial}"
    )


def _new(arguments: argparse.Namespace) -> Trainer:
    asked = given(arguments, TaskSettings)
    if arguments.base is None:
        raise ValueError("finetune: no model given, a BASE is needed")
    if not arguments.files:
        raise ValueError("finetune: no data given, at least 1 file is needed (or - for stdin)")
    config = {}
    if arguments.config is not None:
        config = options.read_toml(arguments.config, TaskSettings)
    settings = TaskSettings(**config | asked | {"base": arguments.base})
    out = arguments.out
    folder = run_folder.free_folder(arguments.files) if out is None else Path(out)
    return tuning.start(arguments.files, settings, folder, tell)


def _resumed(arguments: argparse.Namespace) -> Trainer:
    asked = given(arguments, TaskSettings)
    inputs = [*([arguments.base] if arguments.base else []), *arguments.files]
    refuse_changes(arguments, asked, inputs)
    threads = TaskSettings(**asked).threads
    trainer = tuning.resume(Path(arguments.resume), tell, threads)
    require_later(arguments, trainer)
    return trainer

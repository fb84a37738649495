"""Tune a model on conversations, instructions, preferences or text, or for a task.

With a base and files: a new run. With --resume: on from the last save of a run, bit for bit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minillm.cli.training_run import add_flags, add_options, drive, tuning_run
from minillm.formats import hf
from minillm.tasks.settings import TaskSettings
from minillm.training import run_folder, tuning
from minillm.training.options import fields_of, flag
from minillm.training.tuning_settings import TuneSettings

_NAMES, _TASK_NAMES = (
    {one.name for one in fields_of(kind) if not one.metadata.get("hidden")}
    for kind in (TuneSettings, TaskSettings)
)
FOR_TASKS, FOR_TEXTS = _TASK_NAMES - _NAMES, _NAMES - _TASK_NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", nargs="?", metavar="BASE", help="folder, .gguf file or pulled name")
    parser.add_argument(
        "files",
        nargs="*",
        metavar="DATA",
        help=".jsonl or .json with messages, instructions or preferences; .txt; with --task "
        ".tsv, .csv or .jsonl of labelled texts or questions, or .conll",
    )
    add_options(parser, TuneSettings)
    group = parser.add_argument_group("an encoder for a task")
    add_flags(group, [one for one in fields_of(TaskSettings) if one.name in FOR_TASKS])


def run(arguments: argparse.Namespace) -> int:
    resumed = arguments.resume
    for_a_task = arguments.task is not None if resumed is None else _is_of_a_task(Path(resumed))
    for name in sorted(FOR_TEXTS if for_a_task else FOR_TASKS):
        if getattr(arguments, name) is not None:
            how = "without" if for_a_task else "with"
            what = f"goes {how} --task only" if resumed is None else "is not of this run"
            raise ValueError(f"finetune: --{flag(name)} {what}; leave it out")
    if for_a_task:
        from minillm.cli import finetune_task

        return finetune_task.run(arguments)
    trainer = tuning_run(arguments, TuneSettings, tuning)
    return drive(trainer, arguments, tuning.command_to_try(trainer))


def _is_of_a_task(folder: Path) -> bool:
    """Whether the run in `folder` tunes an encoder for a task."""
    path = folder / run_folder.INNER / "settings.json"
    return path.is_file() and "task" in hf.read_json(path)

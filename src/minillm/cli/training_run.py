"""What the commands that train share: options, driving a run to its end, and what is said then."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import Field
from pathlib import Path
from types import ModuleType
from typing import Any

from minillm import devices
from minillm.cli.main import FAILED, INTERRUPTED, OK, one_line, tell
from minillm.training import options, run_folder
from minillm.training.options import fields_of, flag
from minillm.training.run import Run
from minillm.training.trackers import tracking
from minillm.training.trainer import Trainer

OF_THE_MACHINE = (
    "threads",
    "device",
    "max_memory",
)  # options that a run may change when it is taken up again


def add_options(parser: argparse.ArgumentParser, settings: type) -> None:
    """--resume, --out, --stop-after, and a flag for each of the settings."""
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder")
    parser.add_argument(
        "--out", metavar="RUN", help="folder of a new run (runs/<name of the file>)"
    )
    parser.add_argument("--config", metavar="TOML", help="file with options, under the same names")
    parser.add_argument(
        "--stop-after", type=int, metavar="STEP", help="save and stop after this step of the run"
    )
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        choices=tracking.NAMES,
        help="tell tensorboard, wandb or mlflow too; repeatable",
    )
    add_flags(parser, fields_of(settings))


def add_flags(parser: Any, fields: Sequence[Field[Any]]) -> None:
    """A flag for each of the settings that are not hidden, in a parser or a group of it."""
    for option in fields:
        if option.metadata.get("hidden"):
            continue
        limits = option.metadata
        shown = f"{limits['help']}{_default(option.default)}"
        name = f"--{flag(option.name)}"
        if limits["kind"] is bool:
            parser.add_argument(
                name, action=argparse.BooleanOptionalAction, default=None, help=shown
            )
            continue
        parser.add_argument(
            name,
            type=_duration if limits.get("duration") else limits["kind"],
            metavar="|".join(limits["choices"]) if "choices" in limits else "N",
            help=shown,
        )


def _default(value: Any) -> str:
    return "" if value is None or value is False else f" ({value})"


def _duration(text: str) -> float:
    try:
        return options.seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}, a duration like 90s, 10m or 1.5h is needed"
        ) from None


def given(arguments: argparse.Namespace, settings: type) -> dict[str, Any]:
    """The settings that were given, by attribute name; ValueError for an empty path."""
    for name in ("resume", "out", "config"):
        if getattr(arguments, name) == "":
            raise ValueError(f"{name}: an empty name given, a path is needed")
    resumed = [] if arguments.resume is None else tracking.names_of(Path(arguments.resume), [])
    tracking.require([*arguments.track, *resumed])
    if arguments.stop_after is not None and arguments.stop_after < 0:
        raise ValueError(f"stop-after: {arguments.stop_after}, 0 or more is needed")
    values = {
        o.name: getattr(arguments, o.name)
        for o in fields_of(settings)
        if not o.metadata.get("hidden")
    }
    return {name: value for name, value in values.items() if value is not None}


def refuse_changes(
    arguments: argparse.Namespace, given: dict[str, Any], inputs: Sequence[str]
) -> None:
    """ValueError for whatever a run that is taken up again cannot change; `inputs` are files."""
    refused = sorted(set(given) - set(OF_THE_MACHINE))
    refused += [name for name in ("out", "config") if getattr(arguments, name) is not None]
    if refused:
        raise ValueError(
            f"resume: --{flag(refused[0])} cannot be changed, a run goes on as it began; "
            "start a new run for other settings"
        )
    if inputs:
        raise ValueError(
            "resume: files given, but a run goes on with the data it began with; leave them out"
        )


def require_later(arguments: argparse.Namespace, trainer: Trainer) -> None:
    """ValueError if --stop-after lies before the step that a resumed run is at."""
    step = trainer.counters.step
    if arguments.stop_after is not None and arguments.stop_after < step:
        raise ValueError(
            f"stop-after: {arguments.stop_after}, but {arguments.resume} is at step {step} "
            "already, that or a later step is needed"
        )


def tuning_run(arguments: argparse.Namespace, kind: Any, home: ModuleType) -> Trainer:
    """The trainer of a new run of `finetune`, or of one to go on with; `home` starts and resumes.

    `kind` is the class of its settings.
    """
    asked = given(arguments, kind)
    if arguments.resume is not None:
        inputs = [*([arguments.base] if arguments.base else []), *arguments.files]
        refuse_changes(arguments, asked, inputs)
        trainer: Trainer = home.resume(Path(arguments.resume), tell, asked)
        require_later(arguments, trainer)
        return trainer
    if arguments.base is None:
        raise ValueError("finetune: no model given, a BASE is needed")
    if not arguments.files:
        raise ValueError("finetune: no data given, at least 1 file is needed")
    config = {} if arguments.config is None else options.read_toml(arguments.config, kind)
    settings = kind(**config | asked | {"base": arguments.base})
    devices.require(settings.device)
    out = arguments.out
    folder = run_folder.free_folder(arguments.files) if out is None else Path(out)
    trainer = home.start(arguments.files, settings, folder, tell)
    return trainer


def drive(trainer: Trainer, arguments: argparse.Namespace, next_command: str) -> int:
    """Train to the end and say how it went; the exit code. {run} in the command is the folder."""
    command = trainer.settings.command
    track = tracking.names_of(trainer.folder, arguments.track)
    training = Run(trainer, tell, arguments.stop_after, track)
    folder = shlex.quote(str(trainer.folder))
    go_on = f"minillm {command} --resume {folder}"
    try:
        outcome = training.train()
    except OSError as error:
        raise RuntimeError(
            f"{command}: {one_line(error)}, stopped after step {trainer.counters.step}; the save "
            f"of step {training.saved_step} is whole, make room and go on with: {go_on}"
        ) from error
    if training.shortage:
        raise RuntimeError(
            f"{command}: {training.shortage}; the save of step {training.saved_step} is whole, "
            f"it goes on where there is room: {go_on}"
        )
    if outcome == "done":
        tell(f"done: {folder} holds the model and report.html; try it:")
        tell(f"  {next_command.format(run=folder)}")
        return OK
    if outcome == "stopped":
        tell(f"saved after step {training.saved_step:,}; go on with:")
        tell(f"  {go_on}")
        return OK if trainer.counters.step == training.stop_after else INTERRUPTED
    skips = trainer.counters.skipped_in_a_row
    what = (
        f"{skips} step{'s' * (skips > 1)} in a row not finite"
        if skips
        else "the validation loss is not finite"
    )
    tell(
        f"stopped: {what}; {folder} keeps the save "
        f"of step {training.saved_step:,}; try a lower --lr"
    )
    return FAILED

"""Train a language model on text files.

With files: a new run. With --resume: on from the last save of a run, bit for bit.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from minillm.cli.main import FAILED, INTERRUPTED, OK, one_line, tell
from minillm.training import preflight, run_folder
from minillm.training import settings as options
from minillm.training.run import Run
from minillm.training.settings import Settings, flag
from minillm.training.trainer import Trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help=".txt, .jsonl or .gz files, folders, - for stdin"
    )
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder")
    parser.add_argument(
        "--out", metavar="RUN", help="folder of a new run (runs/<name of the file>)"
    )
    parser.add_argument("--config", metavar="TOML", help="file with options, under the same names")
    parser.add_argument(
        "--stop-after", type=int, metavar="STEP", help="save and stop after this step of the run"
    )
    for option in options.option_fields():
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


def run(arguments: argparse.Namespace) -> int:
    for name in ("resume", "out", "config"):
        if getattr(arguments, name) == "":
            raise ValueError(f"{name}: an empty name given, a path is needed")
    given = {
        o.name: getattr(arguments, o.name)
        for o in options.option_fields()
        if getattr(arguments, o.name) is not None
    }
    trainer = _new(arguments, given) if arguments.resume is None else _resumed(arguments, given)
    training = Run(trainer, tell, arguments.stop_after)
    folder = shlex.quote(str(trainer.folder))
    try:
        outcome = training.train()
    except OSError as error:
        raise RuntimeError(
            f"train: {one_line(error)}, stopped after step {trainer.counters.step}; the save of "
            f"step {training.saved_step} is whole, make room and go on with: "
            f"minillm train --resume {folder}"
        ) from error
    return _report(outcome, training, folder)


def _report(outcome: str, training: Run, folder: str) -> int:
    """Say how the run ended and what can be done now; the exit code."""
    if outcome == "done":
        tell(f"done: {folder} holds the model and report.html; try it:")
        tell(f'  minillm generate {folder} --prompt "..."')
        return OK
    if outcome == "stopped":
        tell(f"saved after step {training.saved_step:,}; go on with:")
        tell(f"  minillm train --resume {folder}")
        return OK if training.trainer.counters.step == training.stop_after else INTERRUPTED
    skips = training.trainer.counters.skipped_in_a_row
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


def _new(arguments: argparse.Namespace, given: dict[str, Any]) -> Trainer:
    if arguments.stop_after is not None and arguments.stop_after < 0:
        raise ValueError(f"stop-after: {arguments.stop_after}, 0 or more is needed")
    config = _config(arguments.config) if arguments.config is not None else {}
    files = config.pop("files", [])
    out = config.pop("out", None)
    files = arguments.files or files
    out = out if arguments.out is None else arguments.out
    if not files:
        raise ValueError("train: no file given, at least 1 is needed (or - for stdin)")
    settings = Settings(**config | given)
    folder = run_folder.free_folder(files) if out is None else Path(out)
    return preflight.start(files, settings, folder, tell)


def _config(path: str) -> dict[str, Any]:
    """Options by attribute name, and `files` and `out`, of a TOML file."""
    config = options.read_toml(path, ("files", "out"))
    files, out = config.get("files", []), config.get("out", "")
    if isinstance(files, str):
        config["files"] = files = [files]
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ValueError(f"{path}: files: {files!r} is no text or list of texts, one is needed")
    if not isinstance(out, str):
        raise ValueError(f"{path}: out: {out!r} is no text, one is needed")
    return config


def _resumed(arguments: argparse.Namespace, given: dict[str, Any]) -> Trainer:
    refused = sorted(set(given) - {"threads"})
    refused += [name for name in ("out", "config") if getattr(arguments, name) is not None]
    if refused:
        raise ValueError(
            f"resume: --{flag(refused[0])} cannot be changed, a run goes on as it began; "
            "start a new run for other settings"
        )
    if arguments.files:
        raise ValueError(
            "resume: files given, but a run goes on with the data it began with; leave them out"
        )
    threads = Settings(**given).threads
    trainer = run_folder.resume(Path(arguments.resume), tell, threads)
    step = trainer.counters.step
    if arguments.stop_after is not None and arguments.stop_after < step:
        raise ValueError(
            f"stop-after: {arguments.stop_after}, but {arguments.resume} is at step {step} "
            "already, that or a later step is needed"
        )
    return trainer

"""Train a language model on text files.

With files: a new run. With --resume: on from the last save of a run, bit for bit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minillm.cli.main import tell
from minillm.cli.training_run import add_options, drive, given, refuse_changes, require_later
from minillm.training import options, preflight, run_folder
from minillm.training.pretraining import find
from minillm.training.settings import Settings
from minillm.training.trainer import Trainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="texts, folders, - for stdin; or what `minillm data prepare` made",
    )
    add_options(parser, Settings)


def run(arguments: argparse.Namespace) -> int:
    asked = given(arguments, Settings)
    trainer = _new(arguments, asked) if arguments.resume is None else _resumed(arguments, asked)
    kind = find(trainer.settings.objective)
    return drive(trainer, arguments.stop_after, f"minillm {kind.next_command}")


def _new(arguments: argparse.Namespace, asked: dict[str, Any]) -> Trainer:
    config = _config(arguments.config) if arguments.config is not None else {}
    files = config.pop("files", [])
    out = config.pop("out", None)
    files = arguments.files or files
    out = out if arguments.out is None else arguments.out
    if not files:
        raise ValueError("train: no file given, at least 1 is needed (or - for stdin)")
    settings = Settings(**config | asked)
    folder = run_folder.free_folder(files) if out is None else Path(out)
    return preflight.start(files, settings, folder, tell)


def _config(path: str) -> dict[str, Any]:
    """Options by attribute name, and `files` and `out`, of a TOML file."""
    config = options.read_toml(path, Settings, ("files", "out"))
    files, out = config.get("files", []), config.get("out", "")
    if isinstance(files, str):
        config["files"] = files = [files]
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ValueError(f"{path}: files: {files!r} is no text or list of texts, one is needed")
    if not isinstance(out, str):
        raise ValueError(f"{path}: out: {out!r} is no text, one is needed")
    return config


def _resumed(arguments: argparse.Namespace, asked: dict[str, Any]) -> Trainer:
    refuse_changes(arguments, asked, arguments.files)
    trainer = run_folder.resume(Path(arguments.resume), tell, Settings(**asked).threads)
    require_later(arguments, trainer)
    return trainer

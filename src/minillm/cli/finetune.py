"""Tune a model on conversations, instructions, preferences or text.

With a base and files: a new run. With --resume: on from the last save of a run, bit for bit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minillm.cli.main import tell
from minillm.cli.training_run import add_options, drive, given, refuse_changes, require_later
from minillm.training import options, run_folder, tuning
from minillm.training.trainer import Trainer
from minillm.training.tuning_settings import ADAPTERS, TuneSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", nargs="?", metavar="BASE", help="folder, .gguf file or pulled name")
    parser.add_argument(
        "files",
        nargs="*",
        metavar="DATA",
        help=".jsonl or .json with messages, instructions or preferences; .txt",
    )
    add_options(parser, TuneSettings)


def run(arguments: argparse.Namespace) -> int:
    trainer = _new(arguments) if arguments.resume is None else _resumed(arguments)
    s, what = trainer.settings, "{run}"
    if s.method in ADAPTERS:
        what = f"{s.base} --adapter {{run}}"
    return drive(trainer, arguments.stop_after, f"minillm chat {what}")


def _new(arguments: argparse.Namespace) -> Trainer:
    asked = given(arguments, TuneSettings)
    if arguments.base is None:
        raise ValueError("finetune: no model given, a BASE is needed")
    if not arguments.files:
        raise ValueError("finetune: no data given, at least 1 file is needed (or - for stdin)")
    config = {}
    if arguments.config is not None:
        config = options.read_toml(arguments.config, TuneSettings)
    settings = TuneSettings(**config | asked | {"base": arguments.base})
    out = arguments.out
    folder = run_folder.free_folder(arguments.files) if out is None else Path(out)
    return tuning.start(arguments.files, settings, folder, tell)


def _resumed(arguments: argparse.Namespace) -> Trainer:
    asked = given(arguments, TuneSettings)
    inputs = [*([arguments.base] if arguments.base else []), *arguments.files]
    refuse_changes(arguments, asked, inputs)
    threads = TuneSettings(**asked).threads
    trainer = tuning.resume(Path(arguments.resume), tell, threads)
    require_later(arguments, trainer)
    return trainer

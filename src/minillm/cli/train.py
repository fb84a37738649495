"""Train a language model on text files.

With files: a new run. With --resume: on from the last save of a run, bit for bit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from minillm.cli.main import FAILED, INTERRUPTED, OK
from minillm.training import preflight
from minillm.training import settings as options
from minillm.training.console import Console
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
        kind = options.seconds if limits.get("duration") else limits["kind"]
        parser.add_argument(
            name,
            type=_reader(name, kind),
            metavar="|".join(limits["choices"]) if "choices" in limits else "N",
            help=shown,
        )


def _default(value: Any) -> str:
    return "" if value is None or value is False else f" ({value})"


def _reader(name: str, kind: Any) -> Any:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            word = {int: "a whole number", float: "a number"}.get(
                kind, "a duration like 90s or 10m"
            )
            raise argparse.ArgumentTypeError(f"{text!r} given, {word} is needed") from None

    return read


def run(arguments: argparse.Namespace) -> int:
    say = _teller()
    given = {
        o.name: getattr(arguments, o.name)
        for o in options.option_fields()
        if getattr(arguments, o.name) is not None
    }
    trainer = _resumed(arguments, given, say) if arguments.resume else _new(arguments, given, say)
    folder = trainer.folder
    outcome = Run(trainer, say, arguments.stop_after).train()
    if outcome == "done":
        say(f"done: {folder} holds the model and report.html; try it:")
        say(f'  minillm generate {folder} --prompt "..."')
        return OK
    if outcome == "stopped":
        say(f"saved after step {trainer.counters.step:,}; go on with:")
        say(f"  minillm train --resume {folder}")
        return OK if trainer.counters.step == arguments.stop_after else INTERRUPTED
    say(
        f"stopped: {trainer.counters.skipped_in_a_row} steps in a row were not finite; "
        f"{folder} keeps the last good save; try a lower --lr"
    )
    return FAILED


def _teller() -> preflight.Say:
    console = Console(sys.stderr)

    def say(text: str) -> None:
        console.write(text + "\n")

    return say


def _new(arguments: argparse.Namespace, given: dict[str, Any], say: preflight.Say) -> Trainer:
    config = _config(arguments.config) if arguments.config is not None else {}
    files = config.pop("files", [])
    out = config.pop("out", None)
    files = arguments.files or files
    out = out if arguments.out is None else arguments.out
    if not files:
        raise ValueError("train: no file given, at least 1 is needed (or - for stdin)")
    settings = Settings(**config | given)
    folder = preflight.free_folder(files) if out is None else Path(out)
    return preflight.start(files, settings, folder, say)


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


def _resumed(arguments: argparse.Namespace, given: dict[str, Any], say: preflight.Say) -> Trainer:
    allowed = {"threads"}
    refused = sorted(set(given) - allowed)
    for name in ("out", "config"):
        if getattr(arguments, name):
            refused.append(name)
    if refused:
        raise ValueError(
            f"resume: --{flag(refused[0])} cannot be changed, a run goes on as it began; "
            "start a new run for other settings"
        )
    if arguments.files:
        raise ValueError(
            "resume: files given, but a run goes on with the data it began with; leave them out"
        )
    return preflight.resume(Path(arguments.resume), say, given.get("threads"))

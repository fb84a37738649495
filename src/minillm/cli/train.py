"""Train a language model on text files, or a translator on pairs of texts.

With files: a new run. With --resume: on from the last save of a run, bit for bit.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from minillm import devices
from minillm.cli.main import OK, tell
from minillm.cli.training_run import (
    add_flags,
    add_options,
    drive,
    given,
    refuse_changes,
    require_later,
)
from minillm.formats import hf
from minillm.formats.files import atomic_write_text
from minillm.tasks.translation import running
from minillm.tasks.translation.settings import TranslationSettings
from minillm.training import options, preflight, rate_finder, run_folder
from minillm.training.options import fields_of, flag
from minillm.training.pretraining import OF_PAIRS, find
from minillm.training.progress import Progress
from minillm.training.settings import Settings
from minillm.training.trainer import Trainer


class Way(NamedTuple):
    """How a run is made and taken up again: from what settings, and by what."""

    settings: Any
    start: Callable[..., Trainer]
    resume: Callable[..., Trainer]


FROM_TEXTS = Way(Settings, preflight.start, run_folder.resume)
FROM_PAIRS = Way(TranslationSettings, running.start, running.resume)
_NAMES, _PAIR_NAMES = (
    {one.name for one in fields_of(way.settings)} for way in (FROM_TEXTS, FROM_PAIRS)
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="texts, folders, - for stdin; or what `minillm data prepare` made; for translate "
        ".tsv, .csv or .jsonl with source and target",
    )
    add_options(parser, Settings)
    parser.add_argument(
        "--find-lr",
        metavar="HTML",
        help="make no run: try growing learning rates for some steps, suggest one, and write that",
    )
    group = parser.add_argument_group(f"--objective {OF_PAIRS}")
    own = [one for one in fields_of(TranslationSettings) if one.name not in _NAMES]
    add_flags(group, own)


def run(arguments: argparse.Namespace) -> int:
    way = _way(arguments)
    for name in sorted(_NAMES - _PAIR_NAMES if way is FROM_PAIRS else _PAIR_NAMES - _NAMES):
        if getattr(arguments, name, None) is not None:
            how = "does not go" if way is FROM_PAIRS else "goes"
            only = "" if way is FROM_PAIRS else " only"
            raise ValueError(
                f"train: --{flag(name)} {how} with --objective {OF_PAIRS}{only}; leave it out"
            )
    if arguments.find_lr is not None:
        _require_no_run(arguments)
    asked = given(arguments, way.settings)
    if arguments.find_lr is not None:
        return _find_rate(arguments, way, asked)
    new = arguments.resume is None
    trainer = _new(arguments, way, asked) if new else _resumed(arguments, way, asked)
    trial = running.TRIAL if way is FROM_PAIRS else find(trainer.settings.objective).next_command
    return drive(trainer, arguments, f"minillm {trial}")


def _way(arguments: argparse.Namespace) -> Way:
    """By the objective asked for here, in the configuration, or by the run to go on with."""
    objective = arguments.objective
    if arguments.resume:
        path = Path(arguments.resume) / run_folder.INNER / "settings.json"
        objective = hf.read_json(path).get("objective") if path.is_file() else None
    elif objective is None and arguments.config:
        objective = options.toml_of(arguments.config).get("objective")
    return FROM_PAIRS if objective == OF_PAIRS else FROM_TEXTS


def _require_no_run(arguments: argparse.Namespace) -> None:
    """ValueError for what belongs to a run that is kept."""
    for name in ("resume", "out", "stop_after", "lr", "track"):
        if getattr(arguments, name) not in (None, []):
            raise ValueError(f"find-lr: --{flag(name)} says nothing where no run is made")


OF_LENGTH = "steps time passes warmup schedule final_lr ema patience eval_every save_every".split()


def _find_rate(arguments: argparse.Namespace, way: Way, asked: dict[str, Any]) -> int:
    """Ramp the rate of a run that is made for that alone; nothing but the page is left of it."""
    unused = [f"--{flag(name)}" for name in OF_LENGTH if name in asked]
    if unused:
        tell(f"minillm: note: find-lr: the rates are tried without {', '.join(unused)}")
    target = Path(arguments.find_lr)
    if target.exists() or not target.name:
        raise ValueError(f"find-lr: {target} is there already, the name of a new page is needed")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"find-lr: {target.parent} is no folder, one is needed")
    with tempfile.TemporaryDirectory(prefix="minillm-") as place:
        trainer = _new(arguments, way, asked, Path(place) / "run")
        tell(f"trying {rate_finder.STEPS} rates from {rate_finder.FIRST:g} on, in place of that")
        with Progress(rate_finder.STEPS) as progress:
            found = rate_finder.ramp(
                trainer, lambda step, outcome: progress.update(step, loss=outcome.loss)
            )
    atomic_write_text(target, rate_finder.report(found, target.stem))
    tell(f"{rate_finder.sentence(found)} ({target})")
    return OK


def _new(
    arguments: argparse.Namespace, way: Way, asked: dict[str, Any], place: Path | None = None
) -> Trainer:
    """A new run, in the folder that was asked for or in `place`."""
    config = {} if arguments.config is None else _config(arguments.config, way.settings)
    files = config.pop("files", [])
    out = config.pop("out", None)
    files = arguments.files or files
    out = out if arguments.out is None else arguments.out
    if not files:
        raise ValueError("train: no file given, at least 1 is needed (or - for stdin)")
    settings = way.settings(**config | asked)
    devices.require(settings.device)
    folder = run_folder.free_folder(files) if out is None else Path(out)
    folder = folder if place is None else place
    return way.start(files, settings, folder, tell)


def _config(path: str, kind: Any) -> dict[str, Any]:
    """Options by attribute name, and `files` and `out`, of a TOML file."""
    config = options.read_toml(path, kind, ("files", "out"))
    files, out = config.get("files", []), config.get("out", "")
    if isinstance(files, str):
        config["files"] = files = [files]
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ValueError(f"{path}: files: {files!r} is no text or list of texts, one is needed")
    if not isinstance(out, str):
        raise ValueError(f"{path}: out: {out!r} is no text, one is needed")
    return config


def _resumed(arguments: argparse.Namespace, way: Way, asked: dict[str, Any]) -> Trainer:
    refuse_changes(arguments, asked, arguments.files)
    trainer = way.resume(Path(arguments.resume), tell, asked)
    require_later(arguments, trainer)
    return trainer

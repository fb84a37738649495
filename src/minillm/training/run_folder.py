"""The folder of a run: naming it, making it, describing what is in it, taking the run up again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from minillm import devices, kernels, tokenizers
from minillm.data import Dataset, Facts
from minillm.formats import hf
from minillm.machine import environment
from minillm.models import folder as model_folder
from minillm.tokenizers import Tokenizer
from minillm.training import plan
from minillm.training import state as states
from minillm.training.pretraining import find
from minillm.training.settings import LoopSettings, Settings
from minillm.training.trainer import Trainer

INNER = "training"
OUTCOME = "outcome.json"  # how the last sitting of a run ended

Say = Callable[[str], None]
AnySettings = TypeVar("AnySettings", bound=LoopSettings)


def free_folder(files: Sequence[str]) -> Path:
    """runs/<name of the first file>, with a number behind it if that is taken."""
    first = Path(files[0])
    name = "stdin" if files[0] == "-" else first.name.split(".")[0] or first.resolve().name
    folder, number = Path("runs") / name, 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}-{number}", number + 1
    return folder


def require_free(folder: Path, command: str) -> None:
    """ValueError unless `folder` is empty or not there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{command}: {folder} exists already; name another --out, or go on with --resume "
            f"{folder}"
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make the folder of a run; an exception inside the block removes what was made."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    ours = True
    try:
        try:
            (folder / INNER).mkdir(parents=True)
        except FileExistsError:  # another run was quicker
            ours = False
            raise
        yield
    except BaseException:
        if ours and os.path.isdir(folder):
            for path in folder.iterdir():  # it was empty or not there
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for parent in missing:
            if os.path.isdir(parent) and not any(parent.iterdir()):  # a name may be too long
                parent.rmdir()
        raise


def write_description(
    trainer: Trainer, tokenizer: Tokenizer, dataset: Dataset, files: Sequence[str], facts: Facts
) -> None:
    """The model but for its weights, and the facts of a run that learns from texts."""
    model, kind = trainer.model, find(trainer.settings.objective)
    model_folder.save_description(trainer.folder, model, tokenizer)
    data = {
        "files": facts.files,
        "bytes": facts.bytes,
        "encoding": facts.encoding,
        "documents": facts.documents,
        "lines": facts.lines,
        "characters": facts.characters,
        "duplicate_share": round(facts.duplicate_share, 4),
    } | asdict(dataset.facts)
    described = {
        "family": kind.family,
        "parameters": model.parameter_count(),
        "tokenizer": tokenizer.kind,
        "vocabulary": tokenizer.vocab_size,
    }
    write_facts(trainer, files, data, described, f"minillm {kind.next_command}")


def write_facts(
    trainer: Trainer,
    files: Sequence[str],
    data: dict[str, Any],
    model: dict[str, Any],
    to_try: str,
) -> None:
    """Everything about a run that does not change while it trains: settings and facts."""
    folder, s = trainer.folder, trainer.settings
    settings = s.to_dict() | {"command": s.command, "files": [str(name) for name in files]}
    hf.write_json(folder / INNER / "settings.json", settings)
    described = {
        "data": data,
        "model": model,
        "environment": environment(),
        "decides": list(trainer.objective.best),
        "commands": [to_try, f"minillm {s.command} --resume {{run}}"],
    }
    hf.write_json(folder / INNER / "facts.json", described)


def resume(folder: Path, say: Say, changes: Mapping[str, Any] = {}) -> Trainer:
    """Take up the run of `folder` after its last undamaged save, with `changes` to its settings.

    Raises FileNotFoundError or ValueError in one line where that cannot be.
    """
    settings = read_settings(folder, Settings, changes)
    tokenizer = tokenizers.load(folder)
    dataset = Dataset.open(folder / INNER, tokenizer)

    def made() -> Trainer:
        model = plan.model_of(settings, plan.config_of(settings, tokenizer))
        objective = find(settings.objective).objective(settings, tokenizer, dataset)
        return Trainer(model, objective, settings, folder)

    return taken_up(folder, settings, say, made)


def taken_up(
    folder: Path,
    settings: LoopSettings,
    say: Say,
    made: Callable[[], Trainer],
) -> Trainer:
    """The Trainer that is `made` for a run, at the last undamaged save of that."""
    saved, notices = states.load_latest(folder / INNER)
    for notice in notices:
        say(notice)
    kernels.set_threads(settings.threads or kernels.threads())
    trainer = made()
    trainer.settings = settings
    trainer.restore(saved)
    say(resumed(trainer))
    return trainer


def read_settings(
    folder: Path, kind: type[AnySettings], changes: Mapping[str, Any] = {}
) -> AnySettings:
    """The settings of the run in `folder`, with `changes` to them, on a device that can be used.

    Errors in what is there begin with "resume: ".
    """
    path = folder / INNER / "settings.json"
    if not path.is_file():
        hint = "; a run that ended before its first save is to be deleted and begun anew"
        raise FileNotFoundError(
            f"resume: {folder} holds no run (no {INNER}/settings.json), the folder of one is needed"
            + hint * (folder / INNER).is_dir()
        )
    content = hf.read_json(path)
    content.pop("files", None)
    command = content.pop("command", Settings.command)
    if command != kind.command:
        raise ValueError(
            f"resume: {folder} is a run of minillm {command}, one of minillm {kind.command} is "
            f"needed; go on with: minillm {command} --resume {folder}"
        )
    content.setdefault("optimizer", "adamw")  # the only one when this was not written down
    try:
        settings = kind(**{name.replace("-", "_"): value for name, value in content.items()})
        settings.require_complete()
    except (TypeError, ValueError) as error:
        raise ValueError(f"resume: {path} is damaged ({error})") from error
    settings = replace(settings, **changes)
    if "max_memory" in changes and settings.device == devices.CPU:
        raise ValueError(
            "resume: --max-memory bounds a GPU only where a run goes on, leave it out or name a "
            "GPU with --device"
        )
    try:
        devices.require(settings.device)
    except RuntimeError as error:
        raise RuntimeError(f"{error}; or go on with --device cpu") from error
    return settings


def resumed(trainer: Trainer) -> str:
    """The line that says where a run goes on."""
    goal = f" of {trainer.settings.steps:,}" if trainer.settings.steps else ""
    return f"resumed {trainer.folder} after step {trainer.counters.step:,}{goal}"

"""The folder of a run: naming it, making it, describing what is in it, taking the run up again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from minillm import kernels, tokenizers
from minillm.data import Dataset, Facts
from minillm.formats import hf
from minillm.machine import environment
from minillm.models import folder as model_folder
from minillm.training import plan
from minillm.training import state as states
from minillm.training.settings import Settings
from minillm.training.trainer import Trainer

INNER = "training"

Say = Callable[[str], None]


def free_folder(files: Sequence[str]) -> Path:
    """runs/<name of the first file>, with a number behind it if that is taken."""
    first = Path(files[0])
    name = "stdin" if files[0] == "-" else first.name.split(".")[0] or first.resolve().name
    folder, number = Path("runs") / name, 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}-{number}", number + 1
    return folder


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


def write_description(trainer: Trainer, files: Sequence[str], facts: Facts) -> None:
    """Everything about the run that does not change while it trains."""
    folder, model = trainer.folder, trainer.model
    model_folder.save_description(folder, model, trainer.tokenizer)
    settings = trainer.settings.to_dict() | {"files": [str(name) for name in files]}
    hf.write_json(folder / INNER / "settings.json", settings)
    described = {
        "data": {
            "files": facts.files,
            "bytes": facts.bytes,
            "encoding": facts.encoding,
            "documents": facts.documents,
            "lines": facts.lines,
            "characters": facts.characters,
            "duplicate_share": round(facts.duplicate_share, 4),
        }
        | asdict(trainer.dataset.facts),
        "model": {
            "family": "GPT-2",
            "parameters": model.parameter_count(),
            "tokenizer": trainer.tokenizer.kind,
            "vocabulary": trainer.tokenizer.vocab_size,
        },
        "environment": environment(),
    }
    hf.write_json(folder / INNER / "facts.json", described)


def resume(folder: Path, say: Say, threads: int | None = None) -> Trainer:
    """Take up the run of `folder` after its last undamaged save.

    Raises FileNotFoundError or ValueError in one line where that cannot be.
    """
    if not (folder / INNER / "settings.json").is_file():
        raise FileNotFoundError(
            f"resume: {folder} holds no run (no {INNER}/settings.json), the folder of one is needed"
        )
    content = hf.read_json(folder / INNER / "settings.json")
    content.pop("files", None)
    try:
        settings = Settings(**{name.replace("-", "_"): value for name, value in content.items()})
        settings.require_complete()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"resume: {folder / INNER / 'settings.json'} is damaged ({error})"
        ) from error
    tokenizer = tokenizers.load(folder)
    dataset = Dataset.open(folder / INNER, tokenizer)
    saved, notices = states.load_latest(folder / INNER)
    for notice in notices:
        say(notice)
    config = plan.config_of(settings, tokenizer)
    kernels.set_threads(threads or settings.threads or kernels.threads())
    model = plan.model_of(settings, config)
    trainer = Trainer(model, tokenizer, dataset, settings, folder)
    trainer.restore(saved)
    goal = f" of {settings.steps:,}" if settings.steps else ""
    say(f"resumed {folder} after step {trainer.counters.step:,}{goal}")
    return trainer

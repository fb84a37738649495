"""Before the first step of a run that tunes an encoder for a task, and taking one up again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy

from minillm import nn
from minillm.models import adapter
from minillm.models import folder as model_folder
from minillm.quantities import count
from minillm.tasks import heads
from minillm.tasks import parts as kept
from minillm.tasks.kinds import WORKS
from minillm.tasks.parts import Parts, read_parts
from minillm.tasks.settings import RATES, TaskSettings
from minillm.tasks.task import Work
from minillm.training import methods, plan
from minillm.training.interrupt import terminate_as_interrupt
from minillm.training.preflight import costs, forecast, settle_machine
from minillm.training.run_folder import (
    Say,
    new_folder,
    read_settings,
    require_free,
    taken_up,
    write_facts,
)
from minillm.training.trainer import Trainer
from minillm.training.tuning_model import lora_of

PASSES = {"full": 5, "last-n": 5, "head": 10, "lora": 5}
ADAPTER = "adapter"  # folder in that of a run
BATCH, WARMUP_SHARE, EVALUATIONS = 32, 0.1, 8


def start(files: Sequence[str], settings: TaskSettings, folder: Path, say: Say) -> Trainer:
    """The preflight: read, decide, check, prepare the run folder; nothing is left of a refused run.

    Raises ValueError, TypeError or OSError in one line for what cannot be tuned.
    """
    require_free(folder, settings.command)
    with terminate_as_interrupt(), new_folder(folder):
        return _prepare(files, settings, folder, say)


def _prepare(files: Sequence[str], settings: TaskSettings, folder: Path, say: Say) -> Trainer:
    task = WORKS[str(settings.task)]
    base = heads.require_encoder(task, str(settings.base))
    parts = read_parts(task, files, settings, say)
    settings = replace(
        settings,
        base=str(base),
        batch=settings.batch or BATCH,
        lr=settings.lr or RATES[settings.method] * task.rate_share,
    )
    model = _model(task, parts, settings)
    parts = parts._replace(digest=digest_of(model))
    kept.save(folder, parts)
    trainer = _trainer(task, model, parts, settings, folder)
    trained = sum(parameter.size for parameter in trainer.trained.values())
    say(
        f"model: {settings.base} with {count(model.parameter_count())} parameters, "
        f"{count(trained)} of them trained ({settings.method}), {task.head}, attention undropped"
    )
    goal: Any = trainer.objective
    for notice in goal.notices:
        say(f"rows: {notice}")
    needed = _memory(trainer)
    plan.require_room(needed, settings, "--batch or --max-length")
    settings = settle_machine(trainer, settings, say)
    trainer.settings, reason = _length(settings, trainer)
    _describe(trainer, files, parts)
    say(forecast(trainer, costs(trainer), reason, time.time()))
    return trainer


def _memory(trainer: Trainer) -> int:
    """Bytes at the peak of a step, about, for rows of mean length."""
    s, model = trainer.settings, trainer.model
    trained = sum(parameter.size for parameter in trainer.trained.values())
    learns = [any(p.requires_grad for p in layer.parameters()) for layer in model.layers]
    deep = len(learns) - learns.index(True) if any(learns) else 0  # blocks that backward enters
    per_feature = plan.floats_kept(deep, s.recompute) + plan.FLOATS_IN_WORK
    features = s.batch * trainer.objective.sample_tokens * model.config.hidden_size
    return int(4 * (model.parameter_count() + 3 * trained + features * per_feature))


def _model(task: Work, parts: Parts, settings: TaskSettings) -> Any:
    model = task.new_model(Path(str(settings.base)), parts.labels, settings.seed)
    if settings.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = settings.dropout
    for layer in model.layers:  # dropping attention weights would take attention step by step
        layer.attention_dropout.p = 0.0
    model.recompute = settings.recompute
    match settings.method:
        case "head":
            methods.train_head(model)
        case "last-n":
            methods.train_last(model, settings.last)
        case "lora":
            methods.train_beside(model, lora_of(settings), settings.seed)
        case _:
            methods.train_all(model)
    for name, parameter in model.named_parameters():
        if name.startswith(task.unread):
            parameter.requires_grad_(False)
    return model


def digest_of(model: Any) -> str:
    """SHA-256 of the configuration and all weights."""
    digest = hashlib.sha256(json.dumps(model.config.to_hf(), sort_keys=True).encode("utf-8"))
    for name, array in sorted(model.state_dict().items()):
        digest.update(name.encode("utf-8"))
        digest.update(numpy.ascontiguousarray(array).data)
    return digest.hexdigest()


def _trainer(task: Work, model: Any, parts: Parts, settings: TaskSettings, folder: Path) -> Trainer:
    goal = task.objective(model, parts, settings)
    rehearsal = replace(settings, steps=settings.steps or 1000, passes=None, time=None, warmup=0)
    write: Callable[[Path, Any], None] = model_folder.save_weights
    if settings.method == "lora":
        write = partial(_write_merged, settings=settings)
    return Trainer(model, goal, rehearsal, folder, write)


def _write_merged(folder: Path, model: Any, settings: TaskSettings) -> None:
    """The whole model, and beside it the adapter alone."""
    adapter.save(folder / ADAPTER, model, lora_of(settings), str(settings.base), None)
    with adapter.merged(model):
        model_folder.save_weights(folder, model)


def _length(settings: TaskSettings, trainer: Trainer) -> tuple[TaskSettings, str]:
    """Steps, and what follows from them; and why so many."""
    s: Any = settings
    goal: Any = trainer.objective
    steps, expected, reason = plan.length_of_passes(
        settings, trainer.step_seconds, s.passes or PASSES[s.method], len(goal.rows), "examples"
    )
    warmup = int(expected * WARMUP_SHARE) if s.time is None and s.warmup is None else s.warmup
    eval_every = s.eval_every or max(1, -(-expected // EVALUATIONS))
    return replace(
        settings,
        steps=steps,
        passes=None,
        warmup=warmup,
        eval_every=eval_every,
        save_every=s.save_every or eval_every,
        eval_examples=s.eval_examples or max(1, goal.validation_size),
    ), reason


def _describe(trainer: Trainer, files: Sequence[str], parts: Parts) -> None:
    """Everything about the run that does not change while it trains."""
    folder, model = trainer.folder, trainer.model
    s: Any = trainer.settings
    goal: Any = trainer.objective
    WORKS[s.task].describe(folder, model, goal)
    data = {
        "files": len(files),
        "training examples": len(parts.train),
        "validation examples": len(parts.val),
        "rows": len(goal.rows),
        "labels": len(parts.labels),
    }
    described = {
        "base": s.base,
        "family": type(model).__name__,
        "architecture": model.config.architecture,
        "parameters": model.parameter_count(),
        "trained": sum(parameter.size for parameter in trainer.trained.values()),
        "vocabulary": model.config.vocab_size,
    }
    write_facts(trainer, files, data, described, f"minillm task {s.task} {{run}}")


def resume(folder: Path, say: Say, changes: Mapping[str, Any] = {}) -> Trainer:
    """Take up the run of `folder` after its last undamaged save, with `changes` to its settings.

    Raises FileNotFoundError or ValueError in one line where that cannot be, as where the base is
    not what it was.
    """
    settings = read_settings(folder, TaskSettings, changes)
    task = WORKS[str(settings.task)]
    parts = kept.load(folder, task)
    model = _model(task, parts, settings)
    if digest_of(model) != parts.digest:
        raise ValueError(
            f"resume: {settings.base} is not what it was when this run began (other weights or "
            "settings), the same base is needed"
        )
    made = partial(_trainer, task, model, parts, settings, folder)
    return taken_up(folder, settings, say, made)

"""Before the first step of a tuning run, and taking one up again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from minillm import kernels
from minillm.data import learnt
from minillm.data.learnt import Parts
from minillm.formats import hf
from minillm.models import adapter
from minillm.models import folder as model_folder
from minillm.quantities import count, duration
from minillm.tokenizers import Tokenizer
from minillm.training import methods
from minillm.training.answers import AnswerModelling
from minillm.training.interrupt import terminate_as_interrupt
from minillm.training.plan import EVALUATIONS, length_of_passes
from minillm.training.preference import REFERENCE, Preference, log_probabilities
from minillm.training.preflight import costs, forecast, settle_machine
from minillm.training.progress import Progress
from minillm.training.run_folder import (
    INNER,
    Say,
    new_folder,
    read_settings,
    require_free,
    taken_up,
    write_facts,
)
from minillm.training.trainer import Trainer
from minillm.training.tuning_data import read_parts
from minillm.training.tuning_memory import obey
from minillm.training.tuning_model import (
    added,
    choose_trained,
    decided,
    lora_of,
    open_base,
    reference_prompt,
)
from minillm.training.tuning_settings import ADAPTERS, TuneSettings

PASSES, PREFERENCE_PASSES = 3, 1
BASE = "base.json"


def start(files: Sequence[str], settings: TuneSettings, folder: Path, say: Say) -> Trainer:
    """The preflight: read, decide, check, prepare the run folder; nothing is left of a refused run.

    Raises ValueError, TypeError or OSError in one line for what cannot be tuned.
    """
    require_free(folder, settings.command)
    with terminate_as_interrupt(), new_folder(folder):
        return _prepare(files, settings, folder, say)


def _prepare(files: Sequence[str], settings: TuneSettings, folder: Path, say: Say) -> Trainer:
    assert settings.base is not None
    model, tokenizer = open_base(settings.base, settings.template)
    blocks = methods.blocks_held(model)
    settings = decided(settings, model)
    model.to(settings.device)  # as it lies in the file, before anything is computed
    parts = read_parts(files, tokenizer, settings, settings.context or 0, say)
    reference = model_folder.logits_of(model)(reference_prompt(model))
    what = choose_trained(model, settings, blocks)
    trained = sum(p.size for p in model.parameters() if p.requires_grad)
    whole = count(model.parameter_count() - added(model))
    beside = "trained beside them" if settings.method in ADAPTERS else "of them trained"
    say(f"model: {settings.base} with {whole} parameters, {count(trained)} {beside} ({what})")
    if settings.max_memory is not None:
        settings, line = obey(model, settings, [*parts.train.lengths, *parts.val.lengths])
        say(line)
    for line in parts.lines_for_people(settings.objective != "answers"):
        say(line)
    trainer = _trainer(model, tokenizer, parts, settings, folder, reference)
    settings = settle_machine(trainer, settings, say)
    if settings.objective == "dpo":
        _add_reference(trainer, parts, say)
        trainer.objective = objective_of(tokenizer, parts, settings)
    learnt.save(folder / INNER, parts)
    hf.write_json(folder / INNER / BASE, hf.reference_metadata(reference))
    trainer.settings, reason = _length(settings, trainer)
    _describe(trainer, tokenizer, files, parts)
    say(forecast(trainer, costs(trainer), reason, time.time()))
    return trainer


def _add_reference(trainer: Trainer, parts: Parts, say: Say) -> None:
    """Add to the examples what the untuned model says of each, in the precision of the run."""
    s, begin = trainer.settings, time.perf_counter()
    trainer.model.eval()
    done = tokens = 0
    with (
        Progress(sum(map(len, parts)), counted="reference: answer") as progress,
        trainer.arena.step(),
        kernels.precision(s.precision, s.device),
    ):
        for part in parts:
            found: list[np.ndarray] = []
            for some in log_probabilities(trainer.model, part, 2 * s.batch):
                tokens += int(part.lengths[len(found) :][: len(some)].sum())
                found.extend(some)
                done += len(some)
                rate = tokens / (time.perf_counter() - begin)
                progress.update(done, tokens_per_s=rate)
            part.more[REFERENCE] = np.array(found, np.float64)
    say(f"reference: log-probabilities of all answers in {duration(time.perf_counter() - begin)}")


def objective_of(tokenizer: Tokenizer, parts: Parts, settings: TuneSettings) -> AnswerModelling:
    s: Any = settings
    if s.objective == "answers":
        return AnswerModelling(
            tokenizer, parts, batch=s.batch, seed=s.seed, label_smoothing=s.label_smoothing
        )
    gamma = s.gamma if s.objective == "simpo" else None
    return Preference(tokenizer, parts, batch=s.batch, seed=s.seed, beta=s.beta, gamma=gamma)


def _trainer(
    model: Any,
    tokenizer: Tokenizer,
    parts: Parts,
    settings: TuneSettings,
    folder: Path,
    reference: np.ndarray,
) -> Trainer:
    write: Callable[[Path, Any], None] = model_folder.save_weights
    if settings.method in ADAPTERS:
        write = partial(
            _write_adapter, lora=lora_of(settings), base=str(settings.base), reference=reference
        )
    rehearsal = replace(settings, steps=settings.steps or 1000, time=None, warmup=0)
    return Trainer(model, objective_of(tokenizer, parts, settings), rehearsal, folder, write)


def _write_adapter(folder: Path, model: Any, **what: Any) -> None:
    adapter.save(folder, model, **what)


def _length(settings: TuneSettings, trainer: Trainer) -> tuple[TuneSettings, str]:
    """Steps, and what follows from them; and why so many."""
    s: Any = settings
    whole = trainer.objective.order.per_epoch  # type: ignore[attr-defined]
    passes = PASSES if s.objective == "answers" else PREFERENCE_PASSES
    steps, expected, reason = length_of_passes(
        settings, trainer.step_seconds, passes, whole, "examples"
    )
    warmup = min(100, expected // 10) if s.time is None and s.warmup is None else s.warmup
    eval_every = s.eval_every or max(1, expected // min(EVALUATIONS, 8))
    return replace(
        settings,
        steps=steps,
        warmup=warmup,
        eval_every=eval_every,
        save_every=s.save_every or eval_every,
        eval_examples=s.eval_examples or max(1, min(64, trainer.objective.validation_size)),
    ), reason


def command_to_try(trainer: Trainer) -> str:
    """The command that uses what was tuned; "{run}" stands for the folder."""
    s, objective = trainer.settings, cast(AnswerModelling, trainer.objective)
    model = f"{s.base} --adapter {{run}}" if s.method in ADAPTERS else "{run}"
    if objective.tokenizer.chat_template is None:
        return f'minillm generate {model} --prompt "..."'
    return f"minillm chat {model}"


def _describe(trainer: Trainer, tokenizer: Tokenizer, files: Sequence[str], parts: Parts) -> None:
    """Everything about the run that does not change while it trains."""
    folder, model, s = trainer.folder, trainer.model, trainer.settings
    tuned = command_to_try(trainer)
    if s.method in ADAPTERS:
        tokenizer.save(folder)
    else:
        model_folder.save_description(folder, model, tokenizer)
    data = {
        "files": len(files),
        "training examples": len(parts.train),
        "examples held out": len(parts.val),
        "training tokens": len(parts.train.ids),
        "learnt tokens": parts.train.targets,
    }
    described = {
        "base": s.base,
        "family": type(model).__name__,
        "parameters": model.parameter_count() - added(model),
        "trained": sum(p.size for p in trainer.trained.values()),
        "vocabulary": tokenizer.vocab_size,
    }
    write_facts(trainer, files, data, described, tuned)


def resume(folder: Path, say: Say, changes: Mapping[str, Any] = {}) -> Trainer:
    """Take up the run of `folder` after its last undamaged save, with `changes` to its settings.

    Raises FileNotFoundError or ValueError in one line where that cannot be, as where the base is
    not what it was.
    """
    settings = read_settings(folder, TuneSettings, changes)
    model, tokenizer = open_base(str(settings.base), settings.template)
    blocks = methods.blocks_held(model.to(settings.device))
    kept = hf.read_json(folder / INNER / BASE)
    logits = model_folder.logits_of(model)
    config = model.config
    difference = hf.reference_difference(kept, logits, config.vocab_size, config.context)
    if difference is None:
        raise ValueError(
            f"resume: {folder / INNER / BASE} says nothing of the base, its logits are needed"
        )
    if difference > hf.TOLERANCE:
        raise ValueError(
            f"resume: the logits of {settings.base} differ by up to {difference:.3g} from those "
            "of the base this run began with, the same is needed"
        )
    parts = learnt.load(folder / INNER)

    def made() -> Trainer:
        reference = logits(reference_prompt(model))
        choose_trained(model, settings, blocks)
        return _trainer(model, tokenizer, parts, settings, folder, reference)

    return taken_up(folder, settings, say, made)

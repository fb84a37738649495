"""Before the first step of a run that learns to translate, and taking one up again."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from minillm import tokenizers
from minillm.models import folder as model_folder
from minillm.quantities import count, counted
from minillm.tasks.translation import examples as kept
from minillm.tasks.translation import vocabulary
from minillm.tasks.translation.families import FAMILIES, undrop
from minillm.tasks.translation.objective import Translating
from minillm.tasks.translation.pairs import Split
from minillm.tasks.translation.settings import TranslationSettings
from minillm.tokenizers import Tokenizer
from minillm.training import plan
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

PASSES, BATCH, EVALUATIONS, EXAMPLES = 60, 128, 10, 250
HEAD_SIZE = 64
DEPTH = 3.0  # blocks of GPT-2 that a layer of both sides takes the memory of
LR_TIMES_WIDTH, HIGHEST_LR = {"adamw": 0.5, "adamw8bit": 0.5, "muon": 1.0}, 4e-3
TRIAL = 'task translate {run} "..."'
BYTES_PER_TOKEN = 100  # of the pairs, for each token of the vocabulary


def start(files: Sequence[str], settings: TranslationSettings, folder: Path, say: Say) -> Trainer:
    """The preflight: read, decide, check, prepare the run folder; nothing is left of a refused run.

    Raises ValueError, TypeError or OSError in one line for what cannot be learnt from.
    """
    require_free(folder, settings.command)
    with terminate_as_interrupt(), new_folder(folder):
        return _prepare(files, settings, folder, say)


def _prepare(
    files: Sequence[str], settings: TranslationSettings, folder: Path, say: Say
) -> Trainer:
    split = kept.read(files, settings, say)
    settings = decided(settings, split)
    tokenizer = vocabulary.learn(settings.tokenizer, _texts(split), settings.vocab_size or 0)
    say(f"tokenizer: {tokenizer.kind}, one vocabulary of {tokenizer.vocab_size:,} for both sides")
    split = kept.fitting(split, tokenizer, settings.max_length, say)
    kept.save(folder, split)
    trainer = _trainer(tokenizer, split, settings, folder)
    parts = f"{counted(settings.layers, 'layer')} on each side, heads: {settings.heads}"
    size = count(trainer.model.parameter_count())
    name = FAMILIES[settings.family].name
    say(f"model: {name} with {size} parameters ({parts}, width {settings.width})")
    say(f"optimizer: {settings.optimizer}, learning rate up to {settings.lr:g}")
    settings = settle_machine(trainer, settings, say)
    trainer.settings, reason = _length(settings, trainer)
    _describe(trainer, files, split)
    say(forecast(trainer, costs(trainer), reason, time.time()))
    return trainer


def decided(settings: TranslationSettings, split: Split) -> TranslationSettings:
    """With what was left open and does not depend on the machine."""
    size = sum(len(text.encode("utf-8")) for text in _texts(split))
    width = settings.width
    heads = settings.heads or max(1, width // HEAD_SIZE)
    while width % heads:
        heads -= 1
    return replace(
        settings,
        batch=settings.batch or BATCH,
        heads=heads,
        lr=settings.lr
        or float(f"{min(HIGHEST_LR, LR_TIMES_WIDTH[settings.optimizer] / width):.1e}"),
        vocab_size=settings.vocab_size
        or max(512, min(32768, 1 << int(math.log2(max(1, size / BYTES_PER_TOKEN))))),
    )


def _texts(split: Split) -> list[str]:
    return [f"{text}\n" for pair in split.train for text in (pair.source, pair.target)]


def _trainer(
    tokenizer: Tokenizer, split: Split, settings: TranslationSettings, folder: Path
) -> Trainer:
    s: Any = settings
    goal = Translating(
        tokenizer,
        split.train,
        split.val,
        batch=s.batch,
        seed=s.seed,
        label_smoothing=s.label_smoothing,
        subword_dropout=s.subword_dropout,
    )
    family = FAMILIES[settings.family]
    config = family.config(settings, tokenizer)
    longest = max(len(side) for row in goal.rows for side in row)
    needed = plan.peak_memory(settings, config, longest, DEPTH)
    plan.require_room(needed, settings)
    model = family.model(config, seed=settings.seed)
    model.recompute = settings.recompute
    undrop(model)
    rehearsal = replace(settings, steps=settings.steps or 1000, passes=None, time=None, warmup=0)
    return Trainer(model, goal, rehearsal, folder)


def _length(settings: TranslationSettings, trainer: Trainer) -> tuple[TranslationSettings, str]:
    """Steps, and what follows from them; and why so many."""
    s: Any = settings
    goal: Any = trainer.objective
    steps, expected, reason = plan.length_of_passes(
        settings, trainer.step_seconds, s.passes or PASSES, len(goal.rows), "pairs"
    )
    warmup = min(200, expected // 10) if s.time is None and s.warmup is None else s.warmup
    eval_every = s.eval_every or max(1, -(-expected // EVALUATIONS))
    return replace(
        settings,
        steps=steps,
        passes=None,
        warmup=warmup,
        eval_every=eval_every,
        save_every=s.save_every or eval_every,
        eval_examples=s.eval_examples or max(1, min(EXAMPLES, goal.validation_size)),
    ), reason


def _describe(trainer: Trainer, files: Sequence[str], split: Split) -> None:
    """Everything about the run that does not change while it trains."""
    model, tokenizer = trainer.model, trainer.objective.tokenizer  # type: ignore[attr-defined]
    model_folder.save_description(trainer.folder, model, tokenizer)
    data = {
        "files": len(files),
        "training pairs": len(split.train),
        "validation pairs": len(split.val),
        "pairs left out": split.left_out,
    }
    described = {
        "family": FAMILIES[trainer.settings.family].name,
        "parameters": model.parameter_count(),
        "tokenizer": tokenizer.kind,
        "vocabulary": tokenizer.vocab_size,
    }
    write_facts(trainer, files, data, described, f"minillm {TRIAL}")


def resume(folder: Path, say: Say, changes: Mapping[str, Any] = {}) -> Trainer:
    """Take up the run of `folder` after its last undamaged save, with `changes` to its settings.

    Raises FileNotFoundError or ValueError in one line where that cannot be.
    """
    settings = read_settings(folder, TranslationSettings, changes)
    tokenizer = tokenizers.load(folder)
    split = kept.load(folder)
    made = partial(_trainer, tokenizer, split, settings, folder)
    return taken_up(folder, settings, say, made)

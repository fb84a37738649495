"""Before the first step: read the text, decide what was left open, refuse what cannot work."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from minillm import data, devices, kernels, tokenizers
from minillm.data import Dataset, Facts
from minillm.quantities import count, counted, size
from minillm.tokenizers import Tokenizer
from minillm.training import plan, prepared_data, shortage, speed
from minillm.training.interrupt import terminate_as_interrupt
from minillm.training.pretraining import find
from minillm.training.run_folder import INNER, Say, new_folder, require_free, write_description
from minillm.training.settings import LoopSettings, Settings
from minillm.training.trainer import Trainer

TOKENIZER_SAMPLE = 20_000_000  # characters a tokenizer learns from at most
SAMPLE_TIMED = 16  # tokens

AnySettings = TypeVar("AnySettings", bound=LoopSettings)


def start(files: Sequence[str], settings: Settings, folder: Path, say: Say) -> Trainer:
    """The preflight: read, decide, check, prepare the run folder; nothing is left of a refused run.

    Raises ValueError, TypeError or OSError in one line for input that cannot be trained on.
    """
    require_free(folder, settings.command)
    with terminate_as_interrupt(), new_folder(folder):
        return _prepare(files, settings, folder, say)


def _prepare(files: Sequence[str], settings: Settings, folder: Path, say: Say) -> Trainer:
    prepared = prepared_data.find(files)
    if prepared is not None:
        tokenizer, facts, dataset, settings = prepared_data.take(prepared, settings, folder, say)
    else:
        tokenizer, facts, dataset, settings = _from_text(files, settings, folder, say)
    kind = find(settings.objective)
    kind.check(settings, tokenizer)
    settings = plan.choose_model(settings, tokenizer, dataset)
    config = plan.config_of(settings, tokenizer)
    needed = plan.predicted_memory(settings, config)
    assert settings.layers is not None and settings.heads is not None
    parts = f"{counted(settings.layers, 'layer')}, {counted(settings.heads, 'head')}"
    say(
        f"model: {kind.family} with {count(config.parameter_count)} parameters ({parts}, width "
        f"{settings.width}, context {settings.context}), about {size(needed)} of memory"
    )
    say(f"optimizer: {settings.optimizer}, learning rate up to {settings.lr:g}")
    plan.require_room(needed, settings)
    model = plan.model_of(settings, config)
    rehearsal = replace(settings, steps=settings.steps or plan.LEAST_STEPS, time=None, warmup=0)
    objective = kind.objective(settings, tokenizer, dataset)
    trainer = Trainer(model, objective, rehearsal, folder)
    settings = settle_machine(trainer, settings, say)
    trainer.settings, reason = plan.choose_length(settings, dataset, trainer.step_seconds)
    write_description(trainer, tokenizer, dataset, files, facts)
    say(forecast(trainer, costs(trainer), reason, time.time()))
    return trainer


def _from_text(
    files: Sequence[str], settings: Settings, folder: Path, say: Say
) -> tuple[Tokenizer, Facts, Dataset, Settings]:
    """What a run needs of texts: the tokenizer learnt from them, and their tokens."""
    corpus = data.read(
        files,
        encoding=settings.encoding,
        errors=settings.errors,
        keep_newlines=settings.keep_newlines,
        text_field=settings.text_field,
    )
    facts = corpus.facts
    for line in facts.lines_for_people():
        say(line)
    settings = plan.choose_tokenizer(settings, facts)
    tokenizer = learn_tokenizer(corpus, settings, facts, say)
    fixed_context = settings.context is not None
    settings = plan.choose_context(settings, facts)
    dataset, settings = _encode(corpus, tokenizer, settings, folder, fixed_context, say)
    return tokenizer, facts, dataset, settings


def learn_tokenizer(corpus: Any, settings: Settings, facts: Facts, say: Say) -> Tokenizer:
    """The tokenizer of the settings, learnt from the documents of a corpus, and a line about it."""
    kind = settings.tokenizer or "bpe"
    purpose = find(settings.objective)
    tokenizer = tokenizers.train(
        kind,
        _text_sample(corpus, kind),
        vocab_size=settings.vocab_size,
        special_tokens=purpose.specials(kind, facts),
        byte_fallback=settings.byte_fallback,
    )
    tokenizer = purpose.finish(tokenizer)
    line = f"tokenizer: {tokenizer.kind}, vocabulary of {tokenizer.vocab_size:,}"
    if kind in plan.PIECES and facts.characters > TOKENIZER_SAMPLE:
        line += f", learnt from the first {count(TOKENIZER_SAMPLE)} characters"
    if settings.vocab_size is not None and tokenizer.vocab_size < settings.vocab_size:
        line += f" (the text does not fill {settings.vocab_size:,})"
    say(line)
    return tokenizer


def _text_sample(corpus: Any, kind: str) -> Iterator[str]:
    taken = 0
    for document in corpus.documents():
        for piece in document.pieces():
            if kind in plan.PIECES and taken >= TOKENIZER_SAMPLE:
                return
            taken += len(piece)
            yield piece
        if kind == "word":
            yield "\n"  # no word goes on in the next document


def _encode(
    corpus: Any,
    tokenizer: Tokenizer,
    settings: Settings,
    folder: Path,
    fixed_context: bool,
    say: Say,
) -> tuple[Dataset, Settings]:
    """Token files; a context that was left open is cut to what the text can fill."""
    least = settings.context if fixed_context else 1
    dataset = data.prepare(
        corpus,
        tokenizer,
        folder / INNER,
        val_fraction=settings.val_fraction,
        context=least or 1,
    )
    for line in dataset.facts.lines_for_people():
        say(line)
    shorter = min(len(part) for part in (dataset.train, dataset.val) if part is not None)
    settings, cut = plan.fit_context(settings, shorter)
    if cut:
        say(cut)
    return dataset, settings


def settle_machine(trainer: Trainer, settings: AnySettings, say: Say) -> AnySettings:
    """Threads and precision: as given, else by the time that a step of this model takes with each.

    The trainer is left as it was but for its settings and the time of a step.
    """
    on_gpu = devices.number_of(settings.device) is not None
    bf16 = kernels.has_bf16(settings.device)
    if settings.precision == "bf16" and not bf16:
        say(kernels.without_bf16(settings.device))
        settings = replace(settings, precision="f32")
    threads = [settings.threads or kernels.threads()]
    if settings.threads is None and not on_gpu and not os.environ.get("MINILLM_THREADS"):
        threads = speed.thread_counts(kernels.threads())
    if settings.precision is None:
        precisions = ["f32", "bf16"] if bf16 else ["f32"]
    else:
        precisions = [settings.precision]

    def step(count: int, precision: str) -> float:
        kernels.set_threads(count)
        trainer.settings = replace(trainer.settings, threads=count, precision=precision)
        return trainer.rehearse()

    try:
        seconds = speed.measure(step, threads, precisions)
    except MemoryError as error:
        raise RuntimeError(f"{settings.command}: {shortage.told(error, trainer)}") from None
    chosen = speed.choose(seconds)
    kernels.set_threads(chosen[0])
    trainer.step_seconds = seconds[chosen]
    settings = replace(settings, threads=chosen[0], precision=chosen[1])
    measured = speed.described(seconds, not on_gpu)
    say(f"engine: {_engine(settings)}, {settings.precision}{measured}{_graphs(trainer)}")
    if trainer.gradients is not None and len(precisions) > 1:
        trainer.gradients.forget()  # those of the precision that was not chosen
    return settings


def _graphs(trainer: Trainer) -> str:
    """Whether a GPU is given captured steps, and why not."""
    on_gpu = trainer.gradients
    if on_gpu is None:
        return ""
    told = on_gpu.told()
    return "; CUDA graphs" if on_gpu.graphs else f"; {told}" if told else ""


def _engine(settings: LoopSettings) -> str:
    """What computes, in words."""
    if devices.number_of(settings.device) is not None:
        extension = "CuPy alone (no CUDA extension)" if kernels.cuda is None else "CUDA extension"
        return f"{extension} on {settings.device} ({devices.card(settings.device)})"
    if kernels.cpu is None:
        return "NumPy alone (no C++ extension)"
    threads = counted(settings.threads or 1, "thread")
    return f"C++ extension for {kernels.cpu.runtime.isa()}, {threads}"


def costs(trainer: Trainer) -> speed.Costs:
    """What validating, sampling and saving take; saves the state before the first step."""
    s = trainer.settings
    begin = time.perf_counter()
    trainer.save()
    save = time.perf_counter() - begin
    sampled = min(SAMPLE_TIMED, s.sample_tokens)
    begin = time.perf_counter()
    if sampled:
        trainer.objective.sample(trainer.model, sampled)
    sample = (time.perf_counter() - begin) * s.sample_tokens / max(1, sampled)
    return speed.Costs(trainer.step_seconds, trainer.rehearse_evaluation(), sample, save)


def forecast(trainer: Trainer, costs: speed.Costs, reason: str, now: float) -> str:
    s = trainer.settings
    rate = f"{count(trainer.tokens_per_step / costs.step)} tokens/s"
    if s.time is not None:
        return f"training: {reason}, {rate}, {speed.finish(s.time, now)}"
    seconds = speed.whole_run(
        costs,
        steps=s.steps,
        eval_every=s.eval_every,
        save_every=s.save_every,
        evaluated=trainer.evaluation_size,
        validated=trainer.objective.validation_size,
    )
    return (
        f"training: {s.steps:,} steps of {round(trainer.tokens_per_step):,} tokens ({reason}), "
        f"{rate}, {speed.finish(seconds, now)}"
    )

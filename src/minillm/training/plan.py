"""Choosing what the user left open: tokenizer, model, and how long to train."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

from minillm import device_memory, devices, kernels, ops
from minillm.data import Dataset, Facts
from minillm.quantities import duration, size
from minillm.tokenizers import Tokenizer
from minillm.training.pretraining import find
from minillm.training.settings import LoopSettings, Settings

SHORT_TEXT = 60_000  # bytes; below, too few words repeat for word pieces to pay
PIECES = ("bpe", "wordpiece", "unigram")  # kinds whose vocabulary is learnt from words
MOST_CHARACTERS = 4000  # that such a vocabulary knows
LADDER = (  # layers, heads, width
    (2, 2, 64),
    (3, 3, 96),
    (4, 4, 128),
    (6, 6, 192),
    (6, 8, 256),
    (6, 6, 384),
    (8, 8, 512),
    (12, 12, 768),
)
PARAMETERS_PER_TOKEN = 10
LR_TIMES_WIDTH = {"adamw": 0.5, "adamw8bit": 0.5, "muon": 1.5}
HIGHEST_LR = 4e-3
MUON_WORK = 280 / 72  # multiplications of its products beside those of a step: for width / tokens
EPOCHS = 30
LEAST_STEPS, MOST_STEPS = 200, 5000
PATIENCE = 300.0  # seconds a run takes unless asked for longer
EVALUATIONS = 20
FLOATS_PER_FEATURE = 19  # kept for backward by a block, for each token and feature
FLOATS_IN_WORK = 8  # held besides by the block at work
FLOATS_IN_REFERENCE = 16  # and by NumPy, which holds what kernels do not write
FLOATS_PER_SCORE = 5  # held at once by the reference attention of one block
PROCESS_BYTES = 30_000_000
LOGITS_BYTES = 3 * 4 << 20
KERNEL_LOGITS = 1 << 26  # that a loss by kernels of a GPU holds at once, with their gradients
SMALLER = "--batch, --width, --layers or --context"


def choose_tokenizer(settings: Settings, facts: Facts) -> Settings:
    """Kind and vocabulary by the size of the text."""
    kind = settings.tokenizer or find(settings.objective).choose_tokenizer(settings, facts)
    vocab_size = settings.vocab_size
    if kind in PIECES and vocab_size is None:
        vocab_size = max(512, min(32768, 1 << int(math.log2(max(1, facts.bytes / 400)))))
        if kind != "bpe":  # characters, within a word and at its beginning, are pieces there
            vocab_size = max(vocab_size, 512 + 2 * min(facts.distinct_characters, MOST_CHARACTERS))
    return replace(settings, tokenizer=kind, vocab_size=vocab_size)


def choose_context(settings: Settings, facts: Facts, kind: str | None = None) -> Settings:
    """Tokens at once: more for more text, and for a `kind` of tokenizer whose tokens are short."""
    if settings.context is not None:
        return settings
    context = 64 if facts.bytes < SHORT_TEXT else 128 if facts.bytes < 5_000_000 else 256
    short = (kind or settings.tokenizer) not in PIECES
    return replace(settings, context=2 * context if short else context)


def fit_context(settings: Settings, tokens: int) -> tuple[Settings, str | None]:
    """The context cut to what `tokens` can fill, and the line that says so; ValueError if fixed."""
    assert settings.context is not None
    most = tokens - 1
    if settings.context <= most or most < 1:
        return settings, None
    line = f"context: {settings.context} cut to {most}, a part of the text has {tokens} tokens"
    return replace(settings, context=most), line


def choose_model(settings: Settings, tokenizer: Tokenizer, dataset: Dataset) -> Settings:
    """Layers, heads and width: the largest rung with not too many parameters for the text."""
    rung = LADDER[0]
    for candidate in LADDER:
        layers, heads, width = candidate
        trial = replace(settings, layers=layers, heads=heads, width=width)
        if config_of(trial, tokenizer).parameter_count <= PARAMETERS_PER_TOKEN * len(dataset.train):
            rung = candidate
    layers = settings.layers or rung[0]
    heads = settings.heads or (_heads_for(settings.width) if settings.width else rung[1])
    width = settings.width or (
        rung[2] if rung[2] % heads == 0 else heads * max(1, rung[2] // heads)
    )
    batch = settings.batch or 16
    tokens = batch * settings.accumulate * (settings.context or 1)
    optimizer = settings.optimizer or ("muon" if MUON_WORK * width <= tokens else "adamw")
    rate = find(settings.objective).rate * min(HIGHEST_LR, LR_TIMES_WIDTH[optimizer] / width)
    return replace(
        settings,
        layers=layers,
        heads=heads,
        width=width,
        batch=batch,
        dropout=0.1 if settings.dropout is None else settings.dropout,
        optimizer=optimizer,
        lr=settings.lr or float(f"{rate:.1e}"),
    )


def _heads_for(width: int) -> int:
    """The number of heads that makes them nearest to 32 features each."""
    small = [n for n in range(1, math.isqrt(width) + 1) if width % n == 0]
    sizes = small + [width // n for n in small]
    return width // min(sizes, key=lambda size: abs(size - 32))


def config_of(settings: Settings, tokenizer: Tokenizer) -> Any:
    return find(settings.objective).config(settings, tokenizer)


def model_of(settings: Settings, config: Any) -> Any:
    """The untrained model, its weights drawn from the seed."""
    model = find(settings.objective).model(config, settings.seed)
    model.recompute = settings.recompute
    if settings.stochastic_depth:
        model.stochastic_depth = settings.stochastic_depth
    return model


class Length(NamedTuple):
    """Steps of a run, None where a time is given instead; how many they will be; and why."""

    steps: int | None
    expected: int
    reason: str


def asked_length(settings: LoopSettings, step_seconds: float) -> Length | None:
    """The length that the settings ask for, None where they leave it open."""
    s = settings
    if s.time is not None:
        expected = max(1, int(s.time / step_seconds))
        return Length(None, expected, f"about {expected:,} steps in the {duration(s.time)} given")
    return None if s.steps is None else Length(s.steps, s.steps, "as asked")


def length_of_passes(
    settings: LoopSettings, step_seconds: float, passes: int, size: int, over: str
) -> Length:
    """As asked for, else so many passes over `size` samples."""
    asked = asked_length(settings, step_seconds)
    if asked is not None:
        return asked
    s: Any = settings
    steps = max(1, -(-passes * size // (s.batch * s.accumulate)))
    return Length(steps, steps, f"{passes} {'passes' if passes > 1 else 'pass'} over the {over}")


def choose_length(
    settings: Settings, dataset: Dataset, step_seconds: float
) -> tuple[Settings, str]:
    """Steps, and what follows from them; and why so many."""
    s: Any = settings
    per_step = s.batch * s.accumulate * s.context
    found = asked_length(settings, step_seconds)
    if found is None:
        wanted = min(MOST_STEPS, max(LEAST_STEPS, EPOCHS * len(dataset.train) // per_step))
        affordable = max(LEAST_STEPS, int(PATIENCE / step_seconds))
        steps = min(wanted, affordable)
        limit = f"{PATIENCE / 60:.0f} minutes on this machine" if affordable < wanted else None
        passes = f"{steps * per_step / len(dataset.train):.1f} passes over the text"
        found = Length(steps, steps, limit or passes)
    steps, expected, reason = found
    warmup = min(100, expected // 10) if s.time is None and s.warmup is None else s.warmup
    return replace(
        settings,
        steps=steps,
        warmup=warmup,
        eval_every=s.eval_every or max(1, expected // EVALUATIONS),
        save_every=s.save_every or s.eval_every or max(1, expected // EVALUATIONS),
        eval_tokens=s.eval_tokens or max(16384, expected * per_step // 200),
    ), reason


def predicted_memory(settings: Settings, config: Any) -> int:
    """Bytes at the peak of a step, about; see `peak_memory`."""
    s: Any = settings
    kind = find(s.objective)
    depth = kind.depth
    if s.dropout:
        depth += kind.scores * s.heads * s.context / (s.width * FLOATS_PER_FEATURE)
    return peak_memory(settings, config, s.context, depth)


def peak_memory(settings: Any, config: Any, context: int, depth: float) -> int:
    """Bytes at the peak of a step, about: weights, what blocks keep, and the process.

    Rows have `context` tokens; a layer takes the memory of `depth` blocks of GPT-2. As backward
    comes down the blocks, gradients take the place of what they kept; that of the head is the
    first. Accumulated gradients are there from the start.
    """
    s: Any = settings
    feature = s.batch * context * s.width * 4
    kept = floats_kept(s.layers * depth, settings.recompute)
    blocks, work = int(feature * kept), feature * FLOATS_IN_WORK
    if ops.scaled_dot_product_attention.kernels(kernels.library_of(s.device))[1] is None:
        work += feature * FLOATS_IN_REFERENCE
        work += s.batch * s.heads * context**2 * 4 * FLOATS_PER_SCORE
    weights = 4 * config.parameter_count
    head = 4 * config.vocab_size * s.width
    growing = blocks + weights if s.accumulate > 1 else max(blocks + head, weights)
    held = (3 if s.ema is None else 4) * weights  # with two moments
    logits = logits_bytes(s.device, s.batch * context * config.vocab_size)
    return PROCESS_BYTES + logits + held + growing + work


def logits_bytes(device: str, logits: int) -> int:
    """Bytes of the logits that a loss holds at once, of so many, and of what it makes of them."""
    by_kernels = devices.number_of(device) is not None and kernels.library_of(device) is not None
    return 2 * 4 * min(KERNEL_LOGITS, logits) if by_kernels else LOGITS_BYTES


def floats_kept(blocks: float, recompute: bool) -> float:
    """What so many blocks keep for backward, for each token and feature."""
    if recompute and blocks:
        return blocks + FLOATS_PER_FEATURE
    return blocks * FLOATS_PER_FEATURE


def require_room(needed: int, settings: LoopSettings, smaller: str = SMALLER) -> None:
    """ValueError if the run would not fit into its device, or not into --max-memory."""
    require_memory(needed, device_memory.free(settings.device), settings.command, smaller)
    most = settings.most_bytes
    if most is not None and needed > most:
        raise ValueError(
            f"max-memory: about {size(needed)} needed, {size(most)} are allowed; choose a smaller "
            f"{smaller}, or --recompute"
        )


def require_memory(
    needed: int, available: int | None, command: str = "train", smaller: str = SMALLER
) -> None:
    """ValueError if the run would not fit into memory."""
    if available is not None and needed > available:
        raise ValueError(
            f"{command}: about {size(needed)} of memory needed, {size(available)} are free; "
            f"choose a smaller {smaller}, or --recompute"
        )

"""How much memory a tuning run takes at its peak, and what is chosen to keep to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from minillm.machine import memory
from minillm.nn.loss import ROWS_TIMES_CLASSES
from minillm.quantities import size
from minillm.training.plan import LOGITS_BYTES
from minillm.training.tuning_settings import TuneSettings

WIDE, INNER = 8, 4  # numbers kept of a token by a block: so many times its width, its inner width
HEAD_COPIES = 3  # logits, their gradient and what is between
MOMENT_BYTES = {"adamw": 8.0, "muon": 8.0, "adamw8bit": 2.04}
WORK_BYTES = 20_000_000  # of the interpreter, of batches, of what is written to files


class Choice(NamedTuple):
    """Rows of a batch, whether blocks are computed twice, and the bytes at the peak."""

    batch: int
    recompute: bool
    peak: int


def limit_of(text: str) -> int:
    """`800M`, `1G` or `1.5G` in bytes."""
    units = {"M": 1e6, "G": 1e9}
    number, unit = text[:-1], text[-1:].upper()
    try:
        found = float(number) * units[unit]
    except (ValueError, KeyError):
        raise ValueError(f"max-memory: {text!r}, a size like 800M or 1.5G is needed") from None
    if not 0 < found < 1e15:
        raise ValueError(f"max-memory: {text!r}, a size above 0 is needed")
    return int(found)


def predicted(model: Any, settings: TuneSettings, tokens: int, rows: int, recompute: bool) -> int:
    """Bytes at the peak of a step on `rows` examples of `tokens`, from what is held already.

    The model is there with what it trains, whose gradients and moments are still to come.
    """
    config = model.config
    content = config.to_hf()
    width = content.get("hidden_size") or content["n_embd"]
    inner = content.get("intermediate_size") or content.get("n_inner") or 4 * width
    answers = rows * (1 if settings.objective == "answers" else 2)
    token = 4 * (WIDE * width + INNER * inner)
    blocks = token * config.n_layer
    if recompute:
        blocks = 4 * width * config.n_layer + token
    blocks *= answers * tokens
    trained = sum(p.size for p in model.parameters() if p.requires_grad)
    head, logits = model.head, LOGITS_BYTES
    if not head.requires_grad:
        logits = HEAD_COPIES * 4 * min(ROWS_TIMES_CLASSES, answers * tokens * head.shape[0])
    accumulates = settings.accumulate * (settings.batch or rows) > rows
    growing = blocks + 4 * trained
    if head.requires_grad and not accumulates:  # gradients take the place of what blocks kept
        growing = max(blocks + 4 * head.size, 4 * trained)
    held = int((memory().rss_mb or 0.0) * 1e6)
    moments = int(trained * MOMENT_BYTES[settings.optimizer])
    moments += 0 if settings.ema is None else 4 * trained  # the average
    return held + WORK_BYTES + moments + growing + logits


def choose(model: Any, settings: TuneSettings, lengths: Sequence[int]) -> Choice:
    """Rows and recomputation that keep to --max-memory, as few changes as that takes.

    ValueError, with the figures, where not even one row computed twice does.
    """
    assert settings.batch is not None and settings.max_memory is not None
    limit, tokens = limit_of(settings.max_memory), max(lengths) - 1
    rows = [n for n in range(settings.batch, 0, -1) if settings.batch % n == 0]
    choices = [(n, again) for again in sorted({settings.recompute, True}) for n in rows]
    for n, again in choices:
        peak = predicted(model, settings, tokens, n, again)
        if peak <= limit:
            return Choice(n, again, peak)
    raise ValueError(
        f"max-memory: {size(peak)} are needed for one example of {tokens} tokens at a time, "
        f"{size(limit)} are allowed; choose --method qlora, a smaller --context or --rank, or "
        "--optimizer adamw8bit"
    )


def obey(model: Any, settings: TuneSettings, lengths: Sequence[int]) -> tuple[TuneSettings, str]:
    """The settings that keep to --max-memory, and the line that says so."""
    chosen = choose(model, settings, lengths)
    assert settings.batch is not None and settings.max_memory is not None
    parts = settings.batch // chosen.batch
    model.recompute = chosen.recompute
    changed = replace(
        settings,
        batch=chosen.batch,
        accumulate=settings.accumulate * parts,
        recompute=chosen.recompute,
    )
    how = f"{chosen.batch} at a time" + ", blocks computed twice" * chosen.recompute
    return changed, f"memory: about {size(chosen.peak)} of {settings.max_memory}, examples {how}"

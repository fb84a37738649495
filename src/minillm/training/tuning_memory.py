"""How much memory a tuning run takes at its peak, and what is chosen to keep to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from minillm import devices, nn
from minillm.blocks import GPU_CHUNK
from minillm.machine import memory
from minillm.nn.loss import GPU_LOGITS, LOGITS
from minillm.quantities import size
from minillm.training.plan import logits_bytes
from minillm.training.tuning_settings import ADAPTERS, TuneSettings

WIDE = 8  # times the width: numbers of a token that a block keeps, besides those of its inner part
HEAD_COPIES = 3  # logits, their gradient and what is between
MOMENT_BYTES = {"adamw": 8.0, "muon": 8.0, "adamw8bit": 2.04}
OPENED_BYTES = 8  # of a number that is being opened: itself, and what it is made of
WORK_BYTES = 10_000_000  # of batches, of what is written to files
MARGIN = 1.08  # of a prediction, which is not exact, that has to fit


class FeedForward(NamedTuple):
    """Numbers of a token: kept and held at work, times the inner width; and, times the width, held
    besides where a block is computed for the second time."""

    kept: int
    at_work: int
    again: int


GATED, PLAIN, ADAPTED = FeedForward(4, 3, 2), FeedForward(1, 1, 0), FeedForward(2, 2, 2)


class Choice(NamedTuple):
    """Rows of a batch, whether blocks are computed twice, and the bytes at the peak."""

    batch: int
    recompute: bool
    peak: int


def predicted(model: Any, settings: TuneSettings, tokens: int, rows: int, recompute: bool) -> int:
    """Bytes at the peak of a step on `rows` examples of `tokens`, from what is held already.

    The model is there with what it trains, whose gradients and moments are still to come.
    """
    answers = tokens * rows * (1 if settings.objective == "answers" else 2)
    trained = sum(p.size for p in model.parameters() if p.requires_grad)
    head = model.head
    on_gpu = devices.number_of(settings.device) is not None
    logits = _logits(head, settings.device, answers)
    blocks = answers * _kept(model, settings, recompute)
    growing = blocks + 4 * trained
    accumulates = settings.accumulate * (settings.batch or rows) > rows
    if head.requires_grad and not accumulates:  # gradients take the place of what blocks kept
        growing = max(blocks + 4 * head.size, 4 * trained)
    held = _on_gpu(model) if on_gpu else int((memory().rss_mb or 0.0) * 1e6)
    moments = int(trained * MOMENT_BYTES[settings.optimizer])
    moments += 0 if settings.ema is None else 4 * trained  # the average
    return held + WORK_BYTES + moments + growing + logits


def _logits(head: nn.Parameter, device: str, answers: int) -> int:
    """Bytes of the logits that exist at once, and of what is made of them, see `nn.loss`."""
    on_gpu, logits = devices.number_of(device) is not None, answers * head.shape[0]
    held = head.held if isinstance(head, nn.DeferredParameter) else None
    in_blocks = held is not None and held.kind != "F32"
    if not head.requires_grad and (in_blocks or not on_gpu):
        return HEAD_COPIES * 4 * min(GPU_LOGITS if on_gpu else LOGITS, logits)
    unused = 0 if head.requires_grad else 4 * head.size  # the gradient of a frozen head
    return unused + min(logits_bytes(device, logits), HEAD_COPIES * 4 * logits)


def _on_gpu(model: Any) -> int:
    """Bytes of the weights there, those in blocks as such, and of what is opened of them."""
    held = [p.held if isinstance(p, nn.DeferredParameter) else None for p in model.parameters()]
    sizes = [4 * p.size if h is None else h.raw.nbytes for p, h in zip(model.parameters(), held)]
    return sum(sizes) + (OPENED_BYTES * GPU_CHUNK if any(held) else 0)


def _kept(model: Any, settings: TuneSettings, recompute: bool) -> int:
    """Bytes that blocks keep of a token until backward has come down to the first of them.

    Counted on the operations: a feed-forward part that is one operation keeps its inner values
    once, one of adapted layers twice, a gated one four times.
    """
    content = model.config.to_hf()
    width = content.get("hidden_size") or content["n_embd"]
    inner = content.get("intermediate_size") or content.get("n_inner") or 4 * width
    part = ADAPTED if settings.method in ADAPTERS else PLAIN
    if any(isinstance(module, nn.GatedFeedForward) for module in model.modules()):
        part = GATED
    layers = {"head": 0, "last-n": settings.last}.get(settings.method, model.config.n_layer)
    block, at_work = WIDE * width + part.kept * inner, part.at_work * inner
    if recompute:
        return 4 * (layers * width + block + at_work + part.again * width)
    return 4 * (layers * block + at_work)


def choose(model: Any, settings: TuneSettings, lengths: Sequence[int]) -> Choice:
    """Rows and recomputation that keep to --max-memory, as few changes as that takes.

    ValueError, with the figures, where not even one row computed twice does.
    """
    limit, tokens = settings.most_bytes, max(lengths) - 1
    assert settings.batch is not None and limit is not None
    rows = [n for n in range(settings.batch, 0, -1) if settings.batch % n == 0]
    choices = [(n, again) for again in sorted({settings.recompute, True}) for n in rows]
    for n, again in choices:
        peak = predicted(model, settings, tokens, n, again)
        if MARGIN * peak <= limit:
            return Choice(n, again, peak)
    raise ValueError(
        f"max-memory: {size(MARGIN * peak)} are needed for one example of {tokens} tokens at a "
        f"time, {size(limit)} are allowed; choose --method qlora, a smaller --context or "
        "--rank, or --optimizer adamw8bit"
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

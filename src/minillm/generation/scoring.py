"""How probable a text is to a model, token by token."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy

from minillm import kernels
from minillm.generation.prompts import prompt_ids
from minillm.generation.sampling import NotFinite
from minillm.quantities import counted
from minillm.tensor import no_grad
from minillm.tokenizers import Tokenizer

BOS = ("auto", "yes", "no")


class Score(NamedTuple):
    """A text's tokens, and the log-probability (nats) of each given those before it.

    None stands for a first token that has nothing before it. `bytes` counts the UTF-8 of the tokens
    that have a log-probability.
    """

    ids: list[int]
    tokens: list[str]
    log_probabilities: list[float | None]
    bytes: int
    windows: int

    @property
    def total(self) -> float:
        return math.fsum(value for value in self.log_probabilities if value is not None)

    @property
    def scored(self) -> int:
        return sum(value is not None for value in self.log_probabilities)

    @property
    def perplexity(self) -> float:
        return math.exp(min(-self.total / self.scored, 700.0))

    @property
    def perplexity_error(self) -> float | None:
        """Standard error of the perplexity, as if tokens were independent; None for one token."""
        if self.scored < 2:
            return None
        values = [value for value in self.log_probabilities if value is not None]
        return self.perplexity * statistics.stdev(values) / math.sqrt(self.scored)

    @property
    def bits_per_byte(self) -> float | None:
        """None where the tokens that count stand for no bytes."""
        return -self.total / math.log(2) / self.bytes if self.bytes else None


def score(
    model: Any,
    tokenizer: Tokenizer,
    text: str,
    *,
    context: int | None = None,
    stride: int | None = None,
    bos: str = "auto",
    progress: Callable[[int], object] = lambda count: None,
    command: str = "score",
) -> Score:
    """How probable a decoder finds a text, token by token.

    A text longer than `context` (the model's) is read in windows; each begins `stride` tokens (half
    a window) after the one before and scores what that has not: a token sees at least a window less
    `stride` before it. What stands before each window is up to `bos`, see `led_ids`. `progress` is
    told how many tokens were scored since it was last told. ValueError, of the `command`, for an
    empty text, a model that is no decoder, or a context or stride that it cannot have.
    """
    require_decoder(model, command)
    before, ids = led_ids(tokenizer, text, bos)
    if not ids:
        raise ValueError(f"{command}: a text of 0 tokens, at least 1 is needed")
    size = window(model, context, stride, len(before), command)
    least = 1 if before else 2
    if len(ids) < least or size < least:
        given = counted(len(ids), "token")
        raise ValueError(
            f"{command}: a text of {given} and a context of {size + len(before):,}, "
            f"at least {least} are needed" + ("" if before else ": the first has nothing before it")
        )
    found: list[float | None] = [None] * len(ids)
    windows = 0
    for first, values in windowed(model, before, ids, size, stride):
        found[first : first + len(values)] = values
        windows += 1
        progress(len(values))
    missing = 0 if before else len(tokenizer.token_bytes(ids[0]))
    return Score(
        ids,
        [tokenizer.token_of(id) for id in ids],
        found,
        len(text.encode("utf-8")) - missing,
        windows,
    )


def require_decoder(model: Any, command: str) -> None:
    """ValueError, of the `command`, for a model that gives no probability of a text."""
    kind = model.config.kind
    if kind != "decoder":
        also = "minillm embed gives vectors" if kind == "encoder" else "minillm predict"
        raise ValueError(
            f"{command}: the model is an {kind}, a decoder is needed (of an {kind}, {also})"
        )


def led_ids(tokenizer: Tokenizer, text: str, bos: str = "auto") -> tuple[list[int], list[int]]:
    """What stands before every window of a text, and the ids of the text.

    `bos` is "auto" (what the tokenizer puts before a text, which may be nothing), "yes" (the token
    that begins texts, else the one that ends them) or "no". ValueError where there is no such
    token.
    """
    if bos not in BOS:
        raise ValueError(f"bos: {bos!r}, one of {', '.join(BOS)} is needed")
    before, ids = prompt_ids(tokenizer, text)
    if bos == "no":
        return [], ids
    if bos == "auto" or before:
        return before, ids
    start = tokenizer.role_ids.get("bos", tokenizer.eos_id)
    if start is None:
        raise ValueError(
            "bos: yes, but this tokenizer has no token that begins or ends a text, auto or no is "
            "needed"
        )
    return [start], ids


def window(
    model: Any, context: int | None, stride: int | None, led: int, command: str = "score"
) -> int:
    """Tokens of the text in a window, beside the `led` before them."""
    most = model.config.context
    if context is not None and not 2 <= context <= most:
        raise ValueError(
            f"{command}: a context of {context:,}, 2 to {most:,} (the model's) is needed"
        )
    size = (context or most) - led
    furthest = size if led else size - 1  # the first of a window has nothing before it
    if stride is not None and not 1 <= stride <= furthest:
        raise ValueError(f"{command}: a stride of {stride:,}, 1 to {furthest:,} is needed")
    return size


def windowed(
    model: Any, before: list[int], ids: list[int], size: int, stride: int | None
) -> Iterator[tuple[int, list[float]]]:
    """Of each window the first token that is scored, and the log-probabilities from there on."""
    for begin, first, end in spans(len(ids), size, bool(before), stride):
        yield first, _log_probabilities(model, before + ids[begin:end], end - first)


def spans(
    length: int, context: int, led: bool, stride: int | None = None
) -> Iterator[tuple[int, int, int]]:
    """Windows (begin, first, end): of the tokens begin to end those from first on are scored.

    `led`: something stands before each window, so the very first token can be scored too. Windows
    move by `stride`, half a window if it is not given.
    """
    step = stride or max(1, context // 2)
    end = min(length, context)
    yield 0, 0 if led else 1, end
    while end < length:
        first, end = end, min(length, end + step)
        yield end - context, first, end


def _log_probabilities(model: Any, ids: list[int], count: int) -> list[float]:
    """Of the last `count` ids, each given all before it."""
    row = numpy.asarray([ids], numpy.int64)
    targets = row[:, 1:].copy()
    targets[:, : targets.shape[1] - count] = -100
    arena = kernels.Arena()
    with arena.step(), no_grad():
        losses = model.loss(row[:, :-1], targets, reduction="none").numpy()[0, -count:]
    if not numpy.isfinite(losses).all():
        raise NotFinite("score: the loss is NaN or infinite, a finite one is needed")
    return [-float(loss) for loss in losses]

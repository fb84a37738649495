"""What a model thinks of texts: the tokens it expects next, and how probable a text is to it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy

from minillm import kernels
from minillm.generation.prompts import prompt_ids
from minillm.generation.sampling import NotFinite, best_ids, log_probabilities
from minillm.quantities import counted
from minillm.tensor import no_grad
from minillm.tokenizers import Tokenizer


class Candidate(NamedTuple):
    """A token that may come next, its probability among all tokens, and its logit."""

    id: int
    token: str
    probability: float
    logit: float


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


def predict(model: Any, tokenizer: Tokenizer, text: str, top: int = 5) -> list[list[Candidate]]:
    """The `top` most probable tokens, for each place asked for, most probable first.

    A decoder is asked for the token after the text, an encoder with a masked-language-model head
    for every mask token spelled in it, an encoder-decoder for the first token of its answer.
    Probabilities are in float64, over all ids of the model. ValueError for a text that the model
    cannot take, or a model that predicts no tokens.
    """
    if top < 1:
        raise ValueError(f"top: {top}, 1 or more is needed")
    ids, places = _asked(model, tokenizer, text)
    _require_length("predict", model, ids, 1)
    inputs = [numpy.asarray([ids], numpy.int64)]
    if model.config.kind == "encoder-decoder":
        inputs.append(numpy.asarray([[model.config.decoder_start_token_id]], numpy.int64))
    with no_grad():
        read = model.next_logits if model.config.kind == "decoder" else model
        logits = read(*inputs).numpy()
    rows = logits.reshape(-1, logits.shape[-1])
    return [_candidates(tokenizer, rows[place], top) for place in places]


def _asked(model: Any, tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Ids to read, and the rows of logits that are asked for."""
    kind = model.config.kind
    if kind == "decoder":
        before, ids = prompt_ids(tokenizer, text)
        return (before + ids if ids else []), [0]
    if kind == "encoder-decoder":
        return tokenizer.encode(text, add_special_tokens=True), [0]
    mask = tokenizer.role_ids.get("mask")
    if getattr(model.config, "task", None) != "masked" or mask is None:
        raise ValueError(
            "predict: this encoder has no head that predicts tokens; a decoder or a masked "
            "language model is needed (for the vector of a text: minillm embed)"
        )
    ids = tokenizer.encode(text, add_special_tokens=True, split_special_tokens=False)
    places = [place for place, id in enumerate(ids) if id == mask]
    if not places:
        name = tokenizer.id_to_token(mask)
        raise ValueError(f"predict: no {name} in the text, it stands for the token to be predicted")
    return ids, places


def _candidates(tokenizer: Tokenizer, logits: numpy.ndarray, top: int) -> list[Candidate]:
    wide = numpy.asarray(logits, numpy.float64)
    if not math.isfinite(wide.max()):
        raise NotFinite("predict: the logits hold NaN or infinity, finite numbers are needed")
    probabilities = numpy.exp(log_probabilities(wide))
    order = best_ids(wide[: tokenizer.vocab_size], top)  # a padded embedding has more
    return [
        Candidate(int(id), tokenizer.token_of(int(id)), float(probabilities[id]), float(wide[id]))
        for id in order
    ]


def score(
    model: Any,
    tokenizer: Tokenizer,
    text: str,
    *,
    context: int | None = None,
    stride: int | None = None,
    progress: Callable[[int], object] = lambda count: None,
    command: str = "score",
) -> Score:
    """How probable a decoder finds a text, token by token.

    A text longer than `context` (the model's) is read in windows; each begins `stride` tokens (half
    a window) after the one before and scores what that has not: a token sees at least a window less
    `stride` before it. `progress` is told how many tokens were scored since it was last told.
    ValueError, of the `command`, for an empty text, a model that is no decoder, or a context or
    stride that it cannot have.
    """
    if model.config.kind != "decoder":
        also = (
            "minillm embed gives vectors" if model.config.kind == "encoder" else "minillm predict"
        )
        raise ValueError(
            f"{command}: the model is an {model.config.kind}, a decoder is needed (of an "
            f"{model.config.kind}, {also})"
        )
    before, ids = prompt_ids(tokenizer, text)
    if not ids:
        raise ValueError(f"{command}: a text of 0 tokens, at least 1 is needed")
    context = _window(command, model, context, stride, len(before))
    least = 1 if before else 2
    if len(ids) < least or context < least:
        given = counted(len(ids), "token")
        raise ValueError(
            f"{command}: a text of {given} and a context of {context + len(before):,}, "
            f"at least {least} are needed" + ("" if before else ": the first has nothing before it")
        )
    found: list[float | None] = [None] * len(ids)
    windows = 0
    for begin, first, end in spans(len(ids), context, bool(before), stride):
        found[first:end] = _log_probabilities(model, before + ids[begin:end], end - first)
        windows += 1
        progress(end - first)
    missing = 0 if before else len(tokenizer.token_bytes(ids[0]))
    return Score(
        ids,
        [tokenizer.token_of(id) for id in ids],
        found,
        len(text.encode("utf-8")) - missing,
        windows,
    )


def _window(command: str, model: Any, context: int | None, stride: int | None, led: int) -> int:
    """Tokens of the text in a window, beside the `led` before them."""
    most = model.config.context
    if context is not None and not 2 <= context <= most:
        raise ValueError(
            f"{command}: a context of {context:,}, 2 to {most:,} (the model's) is needed"
        )
    window = (context or most) - led
    furthest = window if led else window - 1  # the first of a window has nothing before it
    if stride is not None and not 1 <= stride <= furthest:
        raise ValueError(f"{command}: a stride of {stride:,}, 1 to {furthest:,} is needed")
    return window


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


def _log_probabilities(model: Any, ids: list[int], count: int) -> list[float | None]:
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


def _require_length(command: str, model: Any, ids: list[int], least: int) -> None:
    context = model.config.context
    if len(ids) < least or (context is not None and len(ids) > context):
        most = "" if context is None else f" to {context} (the model's context)"
        given = counted(len(ids), "token")
        raise ValueError(f"{command}: a text of {given}, {least}{most or ' or more'} are needed")

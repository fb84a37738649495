"""The tokens that a model expects next."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy

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


def _require_length(command: str, model: Any, ids: list[int], least: int) -> None:
    context = model.config.context
    if len(ids) < least or (context is not None and len(ids) > context):
        most = "" if context is None else f" to {context} (the model's context)"
        given = counted(len(ids), "token")
        raise ValueError(f"{command}: a text of {given}, {least}{most or ' or more'} are needed")

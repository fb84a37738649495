"""What reads an encoder's hidden states: the head of a masked language model, and the losses."""

from __future__ import annotations

from typing import Any

import numpy

from minillm import nn, ops
from minillm.arrays import xp_of
from minillm.models.encoder_config import EncoderConfig
from minillm.ops.loss import IGNORE_INDEX
from minillm.tensor import Tensor, of


class MaskedHead(nn.Module):
    """From hidden states to the logits of words, by the word embeddings or a decoder of its own."""

    def __init__(self, config: EncoderConfig, activation: str) -> None:
        super().__init__()
        c, vocabulary = config.hidden_size, config.vocab_size
        self.dense = nn.Linear(c, c)
        self.norm = nn.LayerNorm(c, config.layer_norm_eps)
        self.activation = nn.ACTIVATIONS[activation]
        self.decoder = None if config.tie_word_embeddings else nn.normal((vocabulary, c), 1.0, None)
        self.bias = nn.Parameter(numpy.zeros(vocabulary, numpy.float32))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(x)))


def masked_loss(
    head: MaskedHead,
    x: Tensor,
    decoder: Tensor,
    targets: Any,
    reduction: str,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy over the words; the head reads only what has a target.

    The bias is one more column of the decoder: so no more logits than a chunk of them exist.
    """
    how: dict[str, Any] = {"reduction": reduction, "label_smoothing": label_smoothing}
    if reduction == "none":
        return ops.cross_entropy(ops.linear(head(x), decoder, head.bias), targets, **how)
    chosen = targets != IGNORE_INDEX
    x, targets = head(x[chosen]), targets[chosen]
    ones = of(xp_of(targets).ones((len(targets), 1), x.dtype))
    x = ops.concatenate(x, ones, axis=1)
    weight = ops.concatenate(decoder, head.bias.reshape(-1, 1), axis=1)
    return ops.linear_cross_entropy(x, weight, targets, **how)


def span_loss(logits: Tensor, targets: Any, reduction: str) -> Tensor:
    """Cross-entropy over all places (B, T, 2) of where a span begins and ends: targets (B, 2)."""
    if targets.shape != (logits.shape[0], 2):
        raise ValueError(
            f"loss: targets of shape {targets.shape}, first and last places {(len(logits), 2)} are "
            "needed"
        )
    places = logits.transpose(1, 2).reshape(-1, logits.shape[1])
    losses = ops.cross_entropy(places, targets.reshape(-1), reduction=reduction)
    return losses.reshape(-1, 2) if reduction == "none" else losses


def text_loss(logits: Tensor, targets: Any, problem: str | None, reduction: str) -> Tensor:
    """The loss of a classifier of texts, the kind chosen as transformers does."""
    labels = logits.shape[1]
    if problem is None:
        whole = numpy.dtype(targets.dtype).kind in "iu"
        many = "single_label_classification" if whole else "multi_label_classification"
        problem = "regression" if labels == 1 else many
    if problem == "single_label_classification":
        return ops.cross_entropy(logits, targets, reduction=reduction)
    if labels == 1 and targets.ndim == 1:
        targets = targets[:, None]
    if targets.shape != logits.shape:
        raise ValueError(
            f"loss: targets of shape {targets.shape} for {problem}, {logits.shape} is needed"
        )
    targets = targets.astype(logits.dtype)
    if problem == "regression":
        losses = (logits - targets) ** 2
    else:  # log(1 + e**x) - target * x, without overflow
        size = ops.relu(logits) + ops.relu(-logits)
        losses = ops.relu(logits) - logits * targets + ((-size).exp() + 1).log()
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"loss: reduction={reduction!r}, 'mean', 'sum' or 'none' is needed")
    return losses if reduction == "none" else getattr(losses, reduction)()

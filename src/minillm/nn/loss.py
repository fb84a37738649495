"""The loss of a language model straight from what its head reads."""

from __future__ import annotations

from typing import Any

import numpy

from minillm import ops
from minillm.arrays import to_numpy, xp_of
from minillm.nn.parameter import Parameter, held_blocks
from minillm.ops.loss import IGNORE_INDEX
from minillm.tensor import Tensor, checkpoint, of

ROWS_TIMES_CLASSES = 1 << 22  # logits that exist at once where the head lies in blocks


def linear_cross_entropy(
    x: Tensor,
    weight: Parameter,
    targets: Any,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of targets (B, T) from x (B, T, C) and the head (V, C), as the operation.

    A head that is not trained takes no gradient and is multiplied as it lies in a file, a chunk of
    the rows with a target at a time; the logits are found again in backward.
    """
    held = held_blocks(weight)
    if held is None or not (targets != IGNORE_INDEX).any():
        how: dict[str, Any] = {"reduction": reduction, "label_smoothing": label_smoothing}
        return ops.linear_cross_entropy(x, weight, targets, **how)
    flat = to_numpy(targets).reshape(-1)
    used = numpy.flatnonzero(flat != IGNORE_INDEX)
    wanted = flat[used]
    rows = x.reshape(-1, x.shape[-1])
    rows = rows if len(used) == len(flat) else rows[used]

    def losses(part: Tensor, wanted: Any) -> Tensor:
        logits = ops.block_linear(part, held.raw, kind=held.kind)
        how: dict[str, Any] = {"reduction": "none", "label_smoothing": label_smoothing}
        return ops.cross_entropy(logits, wanted, **how)

    step = max(1, ROWS_TIMES_CLASSES // weight.shape[0])
    starts = range(0, len(used), step)
    parts = [
        checkpoint(lambda part, at=at: losses(part, wanted[at : at + step]), rows[at : at + step])
        for at in starts
    ]
    found = parts[0] if len(parts) == 1 else ops.concatenate(*parts, axis=0)
    if reduction != "none":
        return getattr(found, reduction)()
    places = numpy.full(len(flat), len(used))
    places[used] = numpy.arange(len(used))
    padded = ops.concatenate(found, of(xp_of(found.data).zeros(1, found.dtype)), axis=0)
    return padded[places].reshape(*targets.shape)

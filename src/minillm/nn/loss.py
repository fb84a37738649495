"""The loss of a language model straight from what its head reads."""

from __future__ import annotations

import math
from typing import Any

import numpy

from minillm import ops
from minillm.arrays import Array, beside, checked, is_gpu_array, vouched, xp_of
from minillm.nn.parameter import Parameter, held_blocks
from minillm.ops.loss import IGNORE_INDEX, check_targets
from minillm.tensor import Tensor, checkpoint, of

LOGITS = 1 << 22  # that exist at once where the head lies in blocks
GPU_LOGITS = 1 << 25  # on a GPU, where each part has to be worth its launches


def linear_cross_entropy(
    x: Tensor,
    weight: Parameter,
    targets: Any,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of targets (B, T) from x (B, T, C) and the head (V, C), as the operation.

    A head that is not trained takes no gradient and is multiplied as it lies in a file, a chunk of
    the rows at a time, on the host of those with a target alone; the logits are found again in
    backward.
    """
    how: dict[str, Any] = {"reduction": reduction, "label_smoothing": label_smoothing}
    held, on_gpu = held_blocks(weight), is_gpu_array(x.data)
    if on_gpu:  # where nobody looks at targets, and numbers are best left to the operation
        apart = held is not None and held.kind != "F32"
    else:
        apart = held is not None and bool((targets != IGNORE_INDEX).any())
    if held is None or not apart:
        return ops.linear_cross_entropy(x, weight, targets, **how)
    shape = {"size": weight.shape[0], "ignore_index": IGNORE_INDEX}
    checked(check_targets, [targets], shape | how)
    wanted, rows = targets.reshape(-1), x.reshape(-1, x.shape[-1])
    used = None if on_gpu else numpy.flatnonzero(wanted != IGNORE_INDEX)
    if used is not None and len(used) < wanted.size:
        wanted, rows = wanted[used], rows[used]

    def losses(part: Tensor, wanted: Any) -> Tensor:
        logits = ops.block_linear(part, held.raw, kind=held.kind)
        return ops.cross_entropy(logits, vouched(wanted), **how | {"reduction": "none"})

    step = max(1, (GPU_LOGITS if on_gpu else LOGITS) // weight.shape[0])
    parts = [
        checkpoint(lambda part, at=at: losses(part, wanted[at : at + step]), rows[at : at + step])
        for at in range(0, wanted.size, step)
    ]
    found = parts[0] if len(parts) == 1 else ops.concatenate(*parts, axis=0)
    if reduction == "none":
        return _spread(found, used, targets.shape)
    total = found.sum()
    return total if reduction == "sum" else total / _count(targets, total)


def _spread(found: Tensor, used: Array | None, shape: tuple[int, ...]) -> Tensor:
    """Losses of the rows `used`, or of all, in a shape; 0 elsewhere."""
    if used is None:
        return found.reshape(*shape)
    places = numpy.full(math.prod(shape), len(used))
    places[used] = numpy.arange(len(used))
    padded = ops.concatenate(found, of(numpy.zeros(1, found.dtype)), axis=0)
    return padded[places].reshape(*shape)


def _count(targets: Any, like: Tensor) -> Tensor:
    """How many targets are not ignored, where `like` is."""
    found = (targets != IGNORE_INDEX).sum()
    return of(beside(xp_of(found).asarray(found, like.dtype), like.data))

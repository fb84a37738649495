"""T5's bias on attention scores: one number a head for each bucket of distances."""

from __future__ import annotations

import math

import numpy

from minillm import ops
from minillm.nn.layers import Generator, normal
from minillm.nn.module import Module
from minillm.tensor import Tensor


def relative_position_bucket(
    distance: numpy.ndarray, *, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128
) -> numpy.ndarray:
    """The bucket 0 <= b < num_buckets of each distance (key - query), as int64 (Raffel et al. 2020)

    Half of the buckets hold one distance each, the others grow logarithmically up to max_distance,
    the last holds all beyond. Bidirectional: one half of all buckets for keys after the query, one
    for the others; else every later key is in bucket 0. ValueError where the buckets do not fit.
    """
    half = num_buckets // 2 if bidirectional else num_buckets
    exact = half // 2
    if exact < 1 or max_distance <= exact:
        raise ValueError(
            f"relative_position_bucket: {num_buckets} buckets up to a distance of {max_distance}, "
            f"at least {4 if bidirectional else 2} buckets and a distance above {exact} are needed"
        )
    distance = numpy.asarray(distance, numpy.int64)
    away = numpy.abs(distance) if bidirectional else numpy.maximum(-distance, 0)
    # Trained models bin with float32; the logarithm of each is rounded the same on all machines.
    ratio = numpy.maximum(away, 1).astype(numpy.float32) / numpy.float32(exact)
    log = numpy.log(ratio.astype(numpy.float64)).astype(numpy.float32)
    step = log / numpy.float32(math.log(max_distance / exact)) * numpy.float32(half - exact)
    far = numpy.minimum(exact + step.astype(numpy.int64), half - 1)
    bucket = numpy.where(away < exact, away, far)
    return bucket + numpy.where(distance > 0, half, 0) if bidirectional else bucket


class RelativePositionBias(Module):
    """A bias (1, H, Tq, Tk) for scores, learnt for each bucket of distances; weight (buckets, H).

    Queries are at offset, offset + 1, ..., keys at 0, 1, ...
    """

    def __init__(
        self,
        num_heads: int,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.bidirectional, self.max_distance = bidirectional, max_distance
        self.weight = normal((num_buckets, num_heads), 1.0, generator)

    def forward(self, queries: int, keys: int, offset: int = 0) -> Tensor:
        buckets = relative_position_bucket(
            numpy.arange(keys) - numpy.arange(offset, offset + queries)[:, None],
            bidirectional=self.bidirectional,
            num_buckets=self.weight.shape[0],
            max_distance=self.max_distance,
        )
        bias = ops.embedding(self.weight, buckets)  # (Tq, Tk, H)
        return bias.permute(2, 0, 1).reshape(1, -1, queries, keys)

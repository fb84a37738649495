"""What every encoder-decoder does: encode, decode from a start token, learn shifted targets."""

from __future__ import annotations

from typing import Any

import numpy

from minillm import nn, ops
from minillm.arrays import Array, vouched, xp_of
from minillm.models.pretrained import Pretrained
from minillm.nn.attention import MemoryCache
from minillm.tensor import Tensor

IGNORED = -100


def check_tokens(family: str, config: Any, vocab_size: int) -> None:
    """ValueError unless the special tokens of a config are ids of its target vocabulary."""
    ends = config.eos_token_id if isinstance(config.eos_token_id, tuple) else (config.eos_token_id,)
    tokens = [("eos_token_id", end) for end in ends if end is not None]
    for name in ("pad_token_id", "decoder_start_token_id"):
        tokens.append((name, getattr(config, name)))
    for name, token in tokens:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise ValueError(f"{family}: {name} is {token!r}, 0 <= id < {vocab_size} is needed")


def check_ids(family: str, ids: Any) -> None:
    """ValueError unless ids are an array (B, T)."""
    if getattr(ids, "ndim", None) != 2:
        raise ValueError(f"{family}: ids of shape {numpy.shape(ids)}, an array (B, T) is needed")


def visible_keys(family: str, mask: Any, batch: int, length: int) -> numpy.ndarray | None:
    """A mask (B, T) of 0 and 1, or bool, as bool (B, 1, 1, T); None where nothing is hidden.

    ValueError for another shape or other values.
    """
    if mask is None:
        return None
    mask = numpy.asarray(getattr(mask, "data", mask) if isinstance(mask, Tensor) else mask)
    if mask.shape != (batch, length):
        raise ValueError(
            f"{family}: mask of shape {mask.shape} for ids ({batch}, {length}), "
            "one value for each id is needed"
        )
    seen = mask == 1
    if not (seen | (mask == 0)).all():
        raise ValueError(f"{family}: mask holds other values than 0 and 1, 1 for each real token")
    return None if seen.all() else seen[:, None, None]


class EncoderDecoder(Pretrained):
    """model(ids, decoder_ids) gives logits; `loss` trains on targets without holding them.

    `mask` (B, S) is 1 for real source tokens, 0 for padding; a padded row gives what the row alone
    gives. A family defines `encode`, `features_of` and `head`, and its config has
    decoder_start_token_id and pad_token_id.
    """

    family: str
    config: Any

    def encode(self, ids: Any, mask: Any = None) -> Tensor:
        """The memory (B, S, C) that the decoder reads, for source ids (B, S)."""
        raise NotImplementedError(f"{type(self).__name__} defines no encode")

    def features_of(
        self, decoder_ids: Any, memory: Tensor, mask: Any, cache: MemoryCache | None
    ) -> Tensor:
        """What the head reads: decoder_ids (B, T) to (B, T, C)."""
        raise NotImplementedError(f"{type(self).__name__} defines no features_of")

    @property
    def head(self) -> nn.Linear:
        """From features to logits; its weight may be an embedding's."""
        raise NotImplementedError(f"{type(self).__name__} defines no head")

    def features(
        self, ids: Any, decoder_ids: Any = None, mask: Any = None, cache: Any = None
    ) -> Tensor:
        """What the head reads (B, T, C); inputs as in `forward`."""
        check_ids(self.family, ids)
        if decoder_ids is None:
            decoder_ids = numpy.full((ids.shape[0], 1), self.config.decoder_start_token_id)
        return self._decoded(decoder_ids, self.encode(ids, mask), mask, cache)

    def _decoded(self, decoder_ids: Any, memory: Tensor, mask: Any, cache: Any) -> Tensor:
        check_ids(self.family, decoder_ids)
        if cache is not None and not hasattr(cache, "memory"):
            raise TypeError(
                f"{self.family}: a {type(cache).__name__} keeps nothing of the source, "
                "an EncoderDecoderCache is needed"
            )
        if decoder_ids.shape[0] != memory.shape[0]:
            raise ValueError(
                f"{self.family}: {memory.shape[0]} sources and {decoder_ids.shape[0]} targets, "
                "as many of each are needed"
            )
        visible = visible_keys(self.family, mask, *memory.shape[:2])
        return self.features_of(decoder_ids, memory, visible, cache)

    def decode(self, decoder_ids: Any, memory: Tensor, mask: Any = None, cache: Any = None) -> Any:
        """Logits (B, T, V) for decoder_ids (B, T) after what `cache` holds.

        With a cache, keys and values of the memory are those of the first call.
        """
        return self.head(self._decoded(decoder_ids, memory, mask, cache))

    def forward(
        self, ids: Any, decoder_ids: Any = None, mask: Any = None, cache: Any = None
    ) -> Tensor:
        """Logits (B, T, V) for source ids (B, S) and decoder_ids (B, T), the start token if None.

        To decode step by step, `encode` once and `decode` with a cache.
        """
        return self.head(self.features(ids, decoder_ids, mask, cache))

    def next_logits(
        self, ids: Any, decoder_ids: Any = None, mask: Any = None, cache: Any = None
    ) -> Tensor:
        """Logits (B, V) after the last of decoder_ids."""
        return self.head(self.features(ids, decoder_ids, mask, cache)[:, -1])

    def shift_right(self, targets: Any) -> Array:
        """Decoder ids for targets (B, T): the start token first, the last target left out.

        Targets that are ignored (-100) are read as padding.
        """
        check_ids(self.family, targets)
        xp, pad = xp_of(targets), targets.dtype.type(self.config.pad_token_id)
        shifted = xp.full(targets.shape, self.config.decoder_start_token_id, targets.dtype)
        shifted[:, 1:] = targets[:, :-1]
        return vouched(xp.where(shifted == IGNORED, pad, shifted))

    def loss(
        self,
        ids: Any,
        targets: Any,
        mask: Any = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Cross-entropy of targets (B, T) in nats, given source ids (B, S); -100 is ignored."""
        x = self.features(ids, self.shift_right(targets), mask)
        head = self.head
        how: dict[str, Any] = {"reduction": reduction, "label_smoothing": label_smoothing}
        if head.bias is None:
            return ops.linear_cross_entropy(x, head.weight, targets, **how)
        return ops.cross_entropy(head(x), targets, **how)

"""Greedy decoding with an encoder-decoder: the source is encoded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from minillm import kernels
from minillm.generation.cache import Cache
from minillm.tensor import Tensor, no_grad


class EncoderDecoderCache(Cache):
    """A cache of the decoder that keeps the source's keys and values too, computed once a layer."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers)
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}

    def memory(
        self, layer: int, project: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """What `project` gave for `layer` the first time; it is not called again.

        RuntimeError for keys or values on the tape: their gradient would be lost.
        """
        if layer not in self._memory:
            k, v = project()
            if k.requires_grad or v.requires_grad:
                raise RuntimeError("cache: keys and values require a gradient, no_grad() is needed")
            self._memory[layer] = k, v
        return self._memory[layer]

    def clear(self) -> None:
        """Forget all positions and the source."""
        super().clear()
        self._memory = {}

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(
            part.data.nbytes for pair in self._memory.values() for part in pair
        )


def generate_ids(
    model: Any,
    ids: Any,
    *,
    mask: Any = None,
    max_tokens: int = 64,
    vocab_size: int | None = None,
    use_cache: bool = True,
) -> list[list[int]]:
    """The most probable target, token by token, for each row of source ids (B, S).

    `mask` (B, S) is 0 for padding. A target has no start token; it ends before the end token or
    after max_tokens; ids from `vocab_size` on are never chosen; the lowest id wins a tie. The model
    is put into evaluation mode. ValueError for max_tokens below 0 or logits that are not finite.

        model, tokenizer = minillm.load("flan-t5-small")
        ids = numpy.array([tokenizer.encode("translate English to German: Hello")])
        tokenizer.decode(generate_ids(model, ids)[0])
    """
    if max_tokens < 0:
        raise ValueError(f"max-tokens: {max_tokens}, 0 or more is needed")
    model.eval()
    config = model.config
    ends = config.eos_token_id if isinstance(config.eos_token_id, tuple) else (config.eos_token_id,)
    arena, cache = kernels.Arena(), EncoderDecoderCache(config.n_layer) if use_cache else None
    with no_grad():
        memory = model.encode(ids, mask)
    target = numpy.full((len(ids), 1), config.decoder_start_token_id)
    running = numpy.ones(len(ids), bool)
    while running.any() and target.shape[1] <= max_tokens:
        with arena.step(), no_grad():
            unread = target if cache is None else target[:, -1:]
            logits = model.decode(unread, memory, mask, cache).numpy()[:, -1, :vocab_size]
        if not numpy.isfinite(logits.max(axis=1)).all():  # NaN if there is any
            raise ValueError("generate: the logits hold NaN, infinity or no finite value")
        chosen = logits.argmax(axis=1)
        target = numpy.concatenate((target, chosen[:, None]), axis=1)
        running &= ~numpy.isin(chosen, [end for end in ends if end is not None])
    return [_before_end(row, ends) for row in target[:, 1:].tolist()]


def _before_end(row: list[int], ends: tuple[int | None, ...]) -> list[int]:
    last = next((place for place, token in enumerate(row) if token in ends), len(row))
    return row[:last]

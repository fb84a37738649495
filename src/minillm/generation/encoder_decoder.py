"""Decoding with an encoder-decoder: the source is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Self

import numpy

from minillm import kernels
from minillm.generation.cache import Cache
from minillm.generation.sampling import Sampler
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

    def fork(self) -> Self:
        """An independent copy; what belongs to the source is shared."""
        twin = super().fork()
        twin._memory = self._memory.copy()
        return twin

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
        text = "translate English to German: How old are you?"
        ids = numpy.array([tokenizer.encode(text, add_special_tokens=True)])
        tokenizer.decode(generate_ids(model, ids)[0])
    """
    if max_tokens < 0:
        raise ValueError(f"max-tokens: {max_tokens}, 0 or more is needed")
    ends = end_ids(model.config)
    running, rows = numpy.ones(len(ids), bool), numpy.empty((0, len(ids)), numpy.int64)
    decoding = _decoding(model, ids, mask, use_cache)
    while running.any() and len(rows) < max_tokens:
        logits = next(decoding) if not len(rows) else decoding.send(rows[-1])
        logits = logits[:, :vocab_size]
        if not numpy.isfinite(logits.max(axis=1)).all():  # NaN if there is any
            raise ValueError("generate: the logits hold NaN, infinity or no finite value")
        rows = numpy.concatenate((rows, logits.argmax(axis=1)[None]))
        running &= ~numpy.isin(rows[-1], ends)
    targets = rows.T.tolist()
    return [row[: next((i for i, t in enumerate(row) if t in ends), None)] for row in targets]


def target_ids(
    model: Any,
    ids: Any,
    sampler: Sampler,
    generator: numpy.random.Generator,
    *,
    vocab_size: int | None = None,
    use_cache: bool = True,
) -> Iterator[int]:
    """Target ids for one source (1, S), drawn by `sampler`, without end; else as above."""
    decoding = _decoding(model, ids, None, use_cache)
    logits = next(decoding)
    while True:
        chosen = sampler.pick(logits[0, :vocab_size], generator)
        yield chosen
        logits = decoding.send(numpy.array([chosen]))


def end_ids(config: Any) -> list[int]:
    """The ids that end a target: none, one or several."""
    ends = config.eos_token_id
    return list(ends) if isinstance(ends, tuple) else [] if ends is None else [ends]


def _decoding(
    model: Any, ids: Any, mask: Any, use_cache: bool
) -> Generator[numpy.ndarray, numpy.ndarray, None]:
    """Gives logits (B, V) for the next token of each row, takes the tokens (B,) chosen."""
    if not ids.shape[-1]:
        raise ValueError("generate: a source of 0 tokens, at least 1 is needed")
    model.eval()
    arena = kernels.Arena()
    cache = EncoderDecoderCache(model.config.n_layer) if use_cache else None
    with no_grad():
        memory = model.encode(ids, mask)
    target = numpy.full((len(ids), 1), model.config.decoder_start_token_id)
    while True:
        with arena.step(), no_grad():
            unread = target if cache is None else target[:, -1:]
            logits = model.decode(unread, memory, mask, cache).numpy()[:, -1]
        chosen = yield logits
        target = numpy.concatenate((target, chosen[:, None]), axis=1)

"""Greedy targets of an encoder-decoder for rows of source ids."""

from __future__ import annotations

from typing import Any

import numpy

from minillm.arrays import new_generator
from minillm.generation import decoding
from minillm.generation.sampling import Sampler
from minillm.generation.writing import end_ids


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

    `mask` (B, S) is 0 for padding, before or behind the tokens of a row. A target has no start
    token; it ends before the end token or after max_tokens; ids from `vocab_size` on are never
    chosen; the lowest id wins a tie. The model is put into evaluation mode. ValueError for
    max_tokens below 0, a mask that hides tokens inside a row, or logits that are not finite.

        model, tokenizer = minillm.load("flan-t5-small")
        text = "translate English to German: How old are you?"
        ids = numpy.array([tokenizer.encode(text, add_special_tokens=True)])
        tokenizer.decode(generate_ids(model, ids)[0])
    """
    if max_tokens < 0:
        raise ValueError(f"max-tokens: {max_tokens}, 0 or more is needed")
    ends, greedy = end_ids(model.config), Sampler(temperature=0.0)
    targets = []
    for source in _sources(numpy.asarray(ids), mask):
        drawn = decoding.generate_ids(
            model,
            [],
            greedy,
            new_generator(0),
            source=source,
            vocab_size=vocab_size,
            use_cache=use_cache,
        )
        target: list[int] = []
        for _, id in zip(range(max_tokens), drawn):
            if id in ends:
                break
            target.append(id)
        targets.append(target)
    return targets


def _sources(ids: numpy.ndarray, mask: Any) -> list[list[int]]:
    """Each row without its padding."""
    if mask is None:
        return ids.tolist()
    seen = numpy.asarray(mask) == 1
    if seen.shape != ids.shape:
        raise ValueError(f"generate: mask of shape {seen.shape}, {ids.shape} as the ids is needed")
    sources = []
    for row, kept in zip(ids, seen):
        places = numpy.flatnonzero(kept)
        if len(places) and places[-1] - places[0] >= len(places):
            raise ValueError(
                "generate: the mask hides tokens inside a source, padding around it is needed"
            )
        sources.append(row[places].tolist())
    return sources

"""How probable several continuations of one context are to a decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy

from minillm.generation.prompts import prompt_ids
from minillm.generation.reading import Reader
from minillm.generation.sampling import log_probabilities
from minillm.tokenizers import Tokenizer


class Continuation(NamedTuple):
    """The log-probability (nats) of all its tokens; whether each was the most probable one; how
    many ids at the front of the context were left out."""

    total: float
    greedy: bool
    cut: int


def continued_ids(
    tokenizer: Tokenizer, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Ids of a context, with what stands before every text, and of what follows it.

    Spaces at the end of the context go to the continuation, whose tokens are those that both
    together have beyond the context's own, as in lm-evaluation-harness. ValueError for a
    continuation that adds no token, or an empty context with nothing before it.
    """
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    before, whole = prompt_ids(tokenizer, bare + continuation)
    ids = tokenizer.encode(bare)
    if len(whole) <= len(ids):
        raise ValueError(
            f"continuation: {continuation[:40]!r} adds no token to its context, at least 1 is "
            "needed"
        )
    first = before + ids
    if not first:
        start = tokenizer.role_ids.get("bos", tokenizer.eos_id)
        if start is None:
            raise ValueError(
                "continuation: an empty context, and the tokenizer has no token that begins or "
                "ends texts; a context is needed"
            )
        first = [start]
    return first, whole[len(ids) :]


def continuations(
    reader: Reader, context: Sequence[int], candidates: Sequence[Sequence[int]]
) -> list[Continuation]:
    """Each candidate after the context, which is read once.

    Of a context that is too long with the longest candidate, the front is left out for all.
    ValueError for a candidate that alone is longer than the model's context.
    """
    longest = max(map(len, candidates))
    room = len(context) if reader.context is None else reader.context + 1 - longest
    if room < 1 or not all(map(len, candidates)):
        raise ValueError(
            f"continuation: {longest} tokens, 1 to {reader.context} (the model's context) are "
            "needed"
        )
    kept = list(context[-room:])
    reading = reader.begin()
    (after,) = reader.read([(reading, kept)])
    found = []
    for candidate in candidates:
        logits = [after]
        if len(candidate) > 1:
            (rest,) = reader.read([(reading.fork(), candidate[:-1])], every=True)
            logits += list(rest)
        values = [log_probabilities(row)[id] for row, id in zip(logits, candidate, strict=True)]
        greedy = all(int(numpy.argmax(row)) == id for row, id in zip(logits, candidate))
        found.append(Continuation(math.fsum(values), greedy, len(context) - len(kept)))
    return found

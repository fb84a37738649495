"""Drafts for speculative decoding: from a smaller model, or from what the text already holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import repeat
from typing import Any, NamedTuple, Protocol

import numpy

from minillm.generation.reading import Reader
from minillm.generation.sampling import Sampler, Seen, draw
from minillm.quantities import counted
from minillm.tokenizers import Tokenizer


class Proposal(NamedTuple):
    """Ids that may follow, and the distribution float64 (V',) that each was drawn from.

    None stands for an id that was not drawn: nothing else could have been proposed.
    """

    ids: list[int]
    distributions: Sequence[numpy.ndarray | None]


class Draft(Protocol):
    """Proposes what may follow a text."""

    def propose(
        self, text: list[int], count: int, seen: Seen, constraint: Any, remaining: int
    ) -> Proposal:
        """At most `count` ids after `text`, which goes on where the last call's was kept.

        An end token is the last. `seen` comes back as it was; `constraint` is a state of its own,
        or None, and `remaining` how many tokens may still come.
        """

    def keep(self, length: int) -> None:
        """Forget what was read beyond the first `length` ids of the text."""


class ModelDraft:
    """What a smaller model writes with the same sampler. Beyond its context it proposes nothing."""

    def __init__(
        self,
        reader: Reader,
        source: Sequence[int] | None,
        sampler: Sampler,
        generator: numpy.random.Generator,
        vocab_size: int,
        ends: Collection[int],
    ) -> None:
        self.reader, self.reading = reader, reader.begin(source)
        self.sampler, self.generator = sampler, generator
        self.vocab_size, self.ends = vocab_size, ends

    def propose(
        self, text: list[int], count: int, seen: Seen, constraint: Any, remaining: int
    ) -> Proposal:
        if self.reader.context is not None:
            count = min(count, self.reader.context - len(text) + 1)  # the last is not read
        ids: list[int] = []
        distributions: list[numpy.ndarray | None] = []
        unread, pushed = text[self.reading.length :], 0
        while len(ids) < count and not (ids and ids[-1] in self.ends):
            mask = None
            if constraint is not None:
                mask = constraint.allowed(remaining - len(ids))
                if not mask.any():
                    break
            if ids:
                seen.push(ids[-1])
                pushed += 1
            logits = self.reader.read([(self.reading, unread)])[0][: self.vocab_size]
            id, distribution = self._drawn(logits, seen, mask)
            distributions.append(distribution)
            ids.append(id)
            unread = [id]
            if constraint is not None:
                constraint.advance(id)
                if constraint.finished and not self.ends:
                    break
        for _ in range(pushed):
            seen.pop()
        return Proposal(ids, distributions)

    def _drawn(
        self, logits: numpy.ndarray, seen: Seen, mask: Any
    ) -> tuple[int, numpy.ndarray | None]:
        if self.sampler.greedy:
            return self.sampler.pick(logits, self.generator, seen, mask), None
        distribution = self.sampler.probabilities(logits, seen, mask)
        return draw(distribution, self.generator), distribution

    def keep(self, length: int) -> None:
        self.reading.rewind(min(length, self.reading.length))


class LookupDraft:
    """What followed the last ids of the text where they stood before, the last time.

    Prompt lookup (Saxena 2023): the longest match counts, of `longest` ids down to one. Where the
    copy reaches the end of the text it goes on with itself, so a loop is followed at any length.
    """

    def __init__(self, longest: int, ends: Collection[int]) -> None:
        self.ends = ends
        self._after: list[dict[tuple[int, ...], int]] = [{} for _ in range(longest + 1)]
        self._known = 0

    def propose(
        self, text: list[int], count: int, seen: Seen, constraint: Any, remaining: int
    ) -> Proposal:
        self._learn(text)
        lengths = range(len(self._after) - 1, 0, -1)
        places = (self._after[n].get(tuple(text[-n:])) for n in lengths if n <= len(text))
        place = next((place for place in places if place is not None), None)
        ids: list[int] = []
        while place is not None and len(ids) < count and not (ids and ids[-1] in self.ends):
            id = text[place] if place < len(text) else ids[place - len(text)]
            if constraint is not None:
                if not constraint.allowed(remaining - len(ids))[id]:
                    break
                constraint.advance(id)
            ids.append(id)
            place += 1
        return Proposal(ids, [*repeat(None, len(ids))])

    def _learn(self, text: list[int]) -> None:
        for place in range(self._known, len(text)):
            for n in range(1, min(len(self._after) - 1, place) + 1):
                self._after[n][tuple(text[place - n : place])] = place
        self._known = len(text)

    def keep(self, length: int) -> None:
        """Nothing was read."""


def draft_parts(draft: Any) -> tuple[Any, Tokenizer | None]:
    """The model of an option `draft`, and its tokenizer if it has one with it."""
    parts = draft if isinstance(draft, tuple) else (draft, None)
    if (
        len(parts) != 2
        or not hasattr(parts[0], "config")
        or not isinstance(parts[1], Tokenizer | None)
    ):
        names = [type(part).__name__ for part in parts]
        given = f"({', '.join(names)})" if parts is draft else names[0]
        raise TypeError(f"draft: {given}, a model or (model, tokenizer) is needed")
    return parts


def require_same_vocabulary(tokenizer: Tokenizer, draft: Tokenizer) -> None:
    """ValueError unless every id stands for the same token in both.

    Sizes of embeddings, which may be padded, and what else differs between them do not matter.
    """
    if tokenizer.fingerprint == draft.fingerprint:
        return
    sizes = tokenizer.vocab_size, draft.vocab_size
    for id in range(min(sizes)):
        theirs, ours = draft.token_of(id), tokenizer.token_of(id)
        if theirs != ours:
            raise ValueError(
                f"draft: id {id} is {theirs!r} to it and {ours!r} to the model, a draft with the "
                "model's vocabulary is needed"
            )
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"draft: its vocabulary has {counted(sizes[1], 'token')} and the model's {sizes[0]:,}, "
            "a draft with the model's vocabulary is needed"
        )

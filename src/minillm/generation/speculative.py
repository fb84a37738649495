"""Speculative decoding: several ids checked in one reading, none of them on trust."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy

from minillm.generation.drafting import Draft, LookupDraft, ModelDraft, Proposal
from minillm.generation.reading import Reader
from minillm.generation.sampling import Sampler, Seen, draw
from minillm.kernels import MANY_ROWS


class Speculation(Iterator[int]):
    """The ids of `speculate`, and what came of the drafts so far.

    drafted, accepted   ids that were proposed, and those of them that the model kept
    readings            how often the model was asked, the prompt included
    reading             the model's text: all but the last id of the last round
    draft               what proposes; a ModelDraft has a reading too
    """

    def __init__(
        self,
        reader: Reader,
        first: list[int],
        source: Sequence[int] | None,
        draft: Draft,
        sampler: Sampler,
        generator: numpy.random.Generator,
        *,
        ahead: int,
        adaptive: bool,
        vocab_size: int,
        ends: Collection[int],
        max_tokens: int | None,
        constraint: Any,
    ) -> None:
        self.drafted = self.accepted = self.readings = 0
        self.reader, self.draft = reader, draft
        self.reading = reader.begin(source)
        self._sampler, self._generator = sampler, generator
        self._vocab_size, self._ends, self._constraint = vocab_size, ends, constraint
        self._text, self._seen = first, Seen(first)
        self._left = sys.maxsize if max_tokens is None else max_tokens
        self._most = 0 if getattr(reader.model, "reads_whole", False) else ahead
        self._ahead, self._adaptive = self._most, adaptive
        self._ids = self._run()

    def __next__(self) -> int:
        return next(self._ids)

    def _run(self) -> Iterator[int]:
        unread, proposal = self._text, Proposal([], [])
        ended = False
        while self._left and not ended:
            rows = self._rows(unread, proposal.ids)
            fresh = self._checked(rows, proposal)
            self.reading.rewind(len(self._text) - 1)
            self.draft.keep(len(self._text) - 1)
            ended = not fresh or fresh[-1] in self._ends or self._closed
            yield from fresh
            if self._left and not ended:
                unread, proposal = self._text[-1:], self._proposal()

    def _rows(self, unread: list[int], drafted: list[int]) -> numpy.ndarray:
        """Logits (n + 1, V) before and after each of n drafted ids."""
        self.readings += 1
        if not drafted:
            return self.reader.read([(self.reading, unread)])[0][None, : self._vocab_size]
        rows = self.reader.read([(self.reading, [*unread, *drafted])], every=True)[0]
        return rows[:, : self._vocab_size]

    def _proposal(self) -> Proposal:
        # more rows would go through other kernels, whose bits differ
        count = min(self._ahead, self._left - 1, MANY_ROWS - 2)
        if self.reader.context is not None:
            count = min(count, self.reader.context - len(self._text))
        if count < 1:
            return Proposal([], [])
        constraint = self._constraint and self._constraint.fork()
        return self.draft.propose(self._text, count, self._seen, constraint, self._left)

    def _checked(self, rows: numpy.ndarray, proposal: Proposal) -> list[int]:
        """The drafted ids that are kept, and one more; they become part of the text.

        There are none where a constraint lets no id follow: the text is complete, what remains is
        too little to go on with, and no id ends texts.
        """
        fresh: list[int] = []
        for place, logits in enumerate(rows):
            drafted = proposal.ids[place] if place < len(proposal.ids) else None
            distribution = None if drafted is None else proposal.distributions[place]
            mask = None if self._constraint is None else self._constraint.allowed(self._left)
            if mask is not None and not mask.any():
                break
            id = self._choice(logits, drafted, distribution, mask)
            fresh.append(id)
            self._text.append(id)
            self._seen.push(id)
            self._left -= 1
            if self._constraint is not None:
                self._constraint.advance(id)
            if id != drafted:
                break
            self.accepted += 1
            if id in self._ends or self._closed:
                break
        self.drafted += len(proposal.ids)
        if self._adaptive and proposal.ids:
            kept = fresh[: len(proposal.ids)] == proposal.ids
            self._ahead = min(self._most, self._ahead + 2) if kept else max(1, self._ahead - 1)
        return fresh

    @property
    def _closed(self) -> bool:
        """Whether the constraint wants no more, and no token could say so."""
        return not self._ends and self._constraint is not None and self._constraint.finished

    def _choice(
        self,
        logits: numpy.ndarray,
        drafted: int | None,
        distribution: numpy.ndarray | None,
        mask: numpy.ndarray | None,
    ) -> int:
        """The next id, distributed as p; it equals `drafted` exactly where that is kept.

        An id drawn from q is kept with probability min(1, p / q), else one is drawn from
        max(0, p - q), which is 0 there (Leviathan et al. 2023, section 2.3). One that was not drawn
        is kept where p's own draw gives it.
        """
        if drafted is None or distribution is None:
            return self._sampler.pick(logits, self._generator, self._seen, mask)
        wanted = self._sampler.probabilities(logits, self._seen, mask)
        proposed = numpy.zeros(len(wanted))
        proposed[: len(distribution)] = distribution
        if self._generator.random() * proposed[drafted] < wanted[drafted]:
            return drafted
        rest = numpy.maximum(wanted - proposed, 0.0)
        return draw(rest if rest.any() else wanted, self._generator)


def speculate(
    reader: Reader,
    prompt: Sequence[int],
    sampler: Sampler,
    generator: numpy.random.Generator,
    *,
    draft: Reader | None = None,
    lookup: int = 0,
    ahead: int = 4,
    adaptive: bool = True,
    source: Sequence[int] | None = None,
    vocab_size: int | None = None,
    ends: Collection[int] = (),
    max_tokens: int | None = None,
    allowed: Any = None,
) -> Speculation:
    """Ids that follow `prompt`, distributed as without drafts, in fewer readings.

    A draft proposes up to `ahead` ids, the model reads them at once, and those it would not have
    written are replaced (Leviathan et al. 2023, Chen et al. 2023). It is a smaller model with the
    same vocabulary (`require_same_vocabulary` tells), or, with `lookup`, what followed the last
    `lookup` ids or fewer where the text had them before (Saxena 2023). `adaptive` proposes less
    after a refusal and more again after a success.

    Greedy decoding gives the same ids as without drafts, and so does `lookup` with any sampler and
    seed. Sampling with a draft model gives other ids of the same distribution; the same seed gives
    the same again. `sampler` with its penalties, and `allowed`, the state of a constraint, hold for
    drafted ids too. Ends with an id of `ends`, or where the constraint lets nothing follow if there
    are none, after max_tokens (None: never), or with the ValueError of a full context. A draft with
    a shorter context stops proposing there; to a model whose logits depend on the pieces it reads
    (`reads_whole`), none is made at all. An encoder-decoder is given its `source`; a draft of one
    encodes it too.

    ValueError for numbers that make no sense, and for a draft of another kind.
    """
    if (draft is None) == (not lookup):
        given = "neither" if draft is None else "both"
        raise ValueError(f"speculate: {given} of draft and lookup given, one of them is needed")
    if lookup < 0:
        raise ValueError(f"lookup: {lookup}, 0 or more is needed")
    if ahead < 1:
        raise ValueError(f"ahead: {ahead}, 1 or more is needed")
    if max_tokens is None and allowed is not None:
        raise ValueError("speculate: a constraint without max_tokens, a number is needed")
    if max_tokens is not None and max_tokens < 0:
        raise ValueError(f"max-tokens: {max_tokens}, 0 or more is needed")
    size = _ids(reader) if vocab_size is None else min(_ids(reader), vocab_size)
    proposer: Draft = LookupDraft(lookup, ends)
    if draft is not None:
        if (draft.kind, draft.start_ids) != (reader.kind, reader.start_ids):
            raise ValueError(
                f"draft: {draft.kind} from {draft.start_ids}, {reader.kind} from "
                f"{reader.start_ids} as the model is needed"
            )
        if _ids(draft) < size:
            raise ValueError(
                f"draft: its {_ids(draft)} ids, at least {size} as of the model are needed"
            )
        proposer = ModelDraft(draft, source, sampler, generator, size, ends)
    return Speculation(
        reader, [*reader.start_ids, *prompt], source, proposer, sampler, generator, ahead=ahead,
        adaptive=adaptive, vocab_size=size, ends=ends, max_tokens=max_tokens, constraint=allowed,
    )  # fmt: skip


def _ids(reader: Reader) -> int:
    config = reader.model.config
    return config.vocab_size if reader.kind == "decoder" else config.target_size

"""What comes out: pieces while a text is written, completions when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy

from minillm.generation.options import Options
from minillm.generation.sampling import best_ids, best_of, log_probabilities


class Logprob(NamedTuple):
    """An id and its log-probability in nats, in the model's own distribution before any option.

    `top` are the most probable ids with theirs, most probable first. None for the first id of a
    prompt, which has nothing before it.
    """

    id: int
    logprob: float | None
    top: list[tuple[int, float]]


def likelihood(logits: numpy.ndarray, id: int, top: int, size: int | None = None) -> Logprob:
    """Of `id` among logits (V,), and of the `top` most probable ids below `size`."""
    values = log_probabilities(logits)
    best = [(int(i), float(values[i])) for i in best_ids(values[:size], top)] if top else []
    return Logprob(id, float(values[id]), best)


class Piece(NamedTuple):
    """What one step adds to one text.

    ticket          of the request, index the number of the text among its n
    text            whole characters, often ""
    id              the token, None where a piece only releases text or ends it
    logprob, top    as in `Logprob`, those of the end token in the last piece; None where they were
                    not asked for
    end             the token that ended the text, which is not part of it
    finish_reason   None; "stop" after an end token, a stop string or a constraint that is met;
                    "length" after max_tokens; "error", then ticket.error says what happened
    """

    ticket: Any
    index: int  # type: ignore[assignment]  # of the text, not of a value in the tuple
    text: str
    id: int | None = None
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None
    finish_reason: str | None = None
    end: int | None = None

    @classmethod
    def of(
        cls,
        ticket: Any,
        index: int,
        text: str,
        id: int,
        ended: bool,
        logprob: float | None,
        top: list[tuple[int, float]] | None,
        finish_reason: str | None,
    ) -> Piece:
        """What a drawn `id` adds, which may have `ended` the text."""
        shown, end = (None, id) if ended else (id, None)
        return cls(ticket, index, text, shown, logprob, top, finish_reason, end)


class Completion(NamedTuple):
    """A text that was written.

    ids             its tokens without the one that ended it; more than the text where a stop string
                    cut that; with echo those of the prompt first
    finish_reason   "stop" or "length"
    logprobs        one for each of the ids, None where they were not asked for
    prompt_tokens   how many tokens the prompt had, or the source of an encoder-decoder
    seed            the one of the request
    notices         what was done about a context that was full; options that change nothing
    end             the token that ended it, None where none did
    """

    text: str
    ids: list[int]
    finish_reason: str
    logprobs: list[Logprob] | None
    prompt_tokens: int
    seed: int
    notices: tuple[str, ...] = ()
    end: Logprob | None = None


class Collector:
    """Joins the pieces of one request to its completions."""

    def __init__(self, ticket: Any) -> None:
        self._ticket = ticket
        self._pieces: dict[int, list[Piece]] = {}  # of texts that go on
        self._found: dict[int, Completion] = {}
        self._likelihoods: dict[int, list[float]] = {}
        self._given = 0  # texts, by `next_ones`

    def add(self, piece: Piece) -> None:
        pieces = self._pieces.setdefault(piece.index, [])
        pieces.append(piece)
        if piece.finish_reason is None or self._ticket.error is not None:
            return
        if self._ticket.options.best_of is not None:
            self._likelihoods[piece.index] = self._likelihood(pieces)
        self._found[piece.index] = self._completion(self._pieces.pop(piece.index))

    def next_ones(self) -> Iterator[Completion]:
        """The texts that are whole, and all before them, and were not given yet."""
        while self._given in self._found:
            yield self._found.pop(self._given)
            self._given += 1

    def completions(self) -> list[Completion]:
        """The n texts, in order, or the best n of best_of, best first.

        Raises the request's error if it had one.
        """
        if self._ticket.error is not None:
            raise self._ticket.error
        options: Options = self._ticket.options
        notices = tuple(self._ticket.notices)  # also of what ended later
        found = [self._found[index]._replace(notices=notices) for index in sorted(self._found)]
        if options.best_of is None:
            return found
        likelihoods = [self._likelihoods[index] for index in sorted(self._likelihoods)]
        return [found[place] for place in best_of(likelihoods, options.n)]

    def _likelihood(self, pieces: list[Piece]) -> list[float]:
        """Of the tokens that were written, end tokens too."""
        echoed = len(self._ticket.prompt.ids) if self._ticket.options.echo else 0
        return [piece.logprob for piece in pieces[echoed:] if piece.logprob is not None]

    def _completion(self, pieces: list[Piece]) -> Completion:
        ticket = self._ticket
        tokens = [piece for piece in pieces if piece.id is not None]
        logprobs, last = None, pieces[-1]
        if ticket.options.logprobs is not None:
            logprobs = [Logprob(p.id, p.logprob, p.top or []) for p in tokens]  # type: ignore[arg-type]
        return Completion(
            "".join(piece.text for piece in pieces),
            [piece.id for piece in tokens if piece.id is not None],
            str(last.finish_reason),
            logprobs,
            ticket.prompt_tokens,
            ticket.options.seed,
            tuple(ticket.notices),
            None if last.end is None else Logprob(last.end, last.logprob, last.top or []),
        )

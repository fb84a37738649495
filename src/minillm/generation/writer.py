"""From requests to lines: what reads, draws and writes each text that was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from minillm.arrays import new_generator
from minillm.devices import CPU
from minillm.generation.budget import Budget, room_of
from minillm.generation.completions import Piece, likelihood
from minillm.generation.memory import side_by_side
from minillm.generation.options import Options
from minillm.generation.prefixes import Prefixes
from minillm.generation.prompts import prepare
from minillm.generation.reading import Reader, Reading
from minillm.generation.sampling import Seen
from minillm.generation.tickets import Echo, Line, Ticket
from minillm.generation.writing import Drawn, Row, Scribe, end_ids
from minillm.tokenizers import Tokenizer

if TYPE_CHECKING:
    from minillm.generation.beams import Hypothesis


class Writer:
    """Makes tickets of requests and lines of tickets, for one model and its tokenizer."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        prefixes: Prefixes,
        context: int | None = None,
        budget: Budget | None = None,
    ) -> None:
        """A `context` that is not None takes the place of the model's."""
        self.model, self.tokenizer, self.prefixes = model, tokenizer, prefixes
        self.size, self._context, self._budget = tokenizer.vocab_size, context, budget
        ends = [*end_ids(model.config), tokenizer.eos_id]
        self._ends = frozenset(end for end in ends if end is not None)
        self._readers: dict[tuple[int, bool, str], Reader] = {}

    def reader(self, options: Options, model: Any = None) -> Reader:
        """The one that reads as the options say."""
        model = self.model if model is None else model
        key = id(model), options.use_cache, options.cache_dtype
        if key not in self._readers:
            self._readers[key] = Reader(
                model,
                use_cache=options.use_cache,
                cache_dtype=options.cache_dtype,
                chunk=self.prefixes.chunk,
                context=self._context,
            )
        return self._readers[key]

    def ends(self, options: Options) -> frozenset[int]:
        """The ids that end a text."""
        return self._ends.union(options.stop_ids)

    def ticket(
        self,
        prompt: str | Sequence[int],
        options: Options,
        on_notice: Callable[[str], None] | None,
        scope: Hashable = "",
    ) -> Ticket:
        """ValueError, TypeError or IndexError for all that can be known to be wrong."""
        prepared = prepare(self.reader(options), self.tokenizer, prompt, options)
        ticket = Ticket(prepared, prompt, options, on_notice, scope)
        place = getattr(self.model, "device", CPU)  # what only plays a model has none
        ticket.side_by_side = side_by_side(self.model.config, prepared, options, place)
        if self._budget is not None:
            ticket.room = room_of(self.model.config, prepared, options, self.prefixes.chunk)
            texts = self._budget.texts(ticket.room, prepared)
            if options.rows > 1:  # the prompt is kept for those to come
                texts = max(1, texts - 1)
            ticket.side_by_side = min(ticket.side_by_side, texts)
        ticket.constraint = self._constraint(options)
        state = self.state(ticket)
        if state is not None and not state.finished:
            state.allowed(prepared.limit)  # a ValueError if it cannot be met
        if options.draft is not None:
            from minillm.generation.drafting import draft_parts, require_same_vocabulary

            _, tokenizer = draft_parts(options.draft)
            if tokenizer is not None:
                require_same_vocabulary(self.tokenizer, tokenizer)
        return ticket

    def _constraint(self, options: Options) -> Any:
        name = options.constraint
        if name is None:
            return None
        given = getattr(options, name)
        if name == "json_schema" and isinstance(given, str):
            given = json.loads(given)
        from minillm.generation import constraints

        return getattr(constraints, name)(given, self.tokenizer)

    def state(self, ticket: Ticket) -> Any:
        """Of the constraint, at the beginning of a text."""
        if ticket.constraint is None:
            return None
        return ticket.constraint.start(ends=self.ends(ticket.options))

    def filling(self, ticket: Ticket) -> Line:
        """The line that reads the prompt; it becomes the first text."""
        reader, prompt = self.reader(ticket.options), ticket.prompt
        reading = None
        ticket.echo = self._echo(ticket)
        if ticket.echo is None and self._shares(ticket):
            reading = self.prefixes.find(ticket.kind, prompt.ids)
        if reading is None:
            reading = reader.begin(prompt.source)
        ticket.reused = reading.length
        row = self._row(ticket, 0, reading, prompt.ids[reading.length :])
        return Line(ticket, 0, row, self._scribe(ticket))

    def _echo(self, ticket: Ticket) -> Echo | None:
        """What reads how probable the prompt is, where that is asked for."""
        o = ticket.options
        if not o.echo or o.logprobs is None:
            return None
        return Echo(self.reader(o).begin(), ticket.prompt.ids, o.logprobs)

    def _shares(self, ticket: Ticket) -> bool:
        """Whether what was read of its prompt may serve others, and the reverse."""
        kept = self.prefixes.most > 0 and ticket.prompt.source is None
        return kept and not self._whole(ticket.options)

    def _whole(self, o: Options) -> bool:
        """Whether a prompt is read at once, not chunk by chunk."""
        return not o.use_cache or getattr(self.model, "reads_whole", False)

    def remember(self, line: Line) -> None:
        """Keep what was read of a prompt, once no whole chunk is left to be read."""
        ticket, reading = line.ticket, line.row.reading
        last = len(line.row.unread) < self.prefixes.chunk and reading.length > ticket.reused
        if last and self._shares(ticket):
            self.prefixes.keep(ticket.kind, reading)

    def lines(self, first: Line) -> Iterator[Line]:
        """One for each text of a request whose prompt was read, each with its own reading, which
        is copied when its turn comes."""
        ticket, reading = first.ticket, first.row.reading
        for index in range(ticket.options.rows):
            line = first
            if index:
                row = self._row(ticket, index, reading, [])
                line = Line(ticket, index, row, self._scribe(ticket))
            if index + 1 < ticket.options.rows:
                line.row.reading = reading.fork()
            yield line

    def guessed(self, ticket: Ticket) -> Iterator[Line]:
        """Lines that read by themselves: those of speculative decoding and contrastive search."""
        o = ticket.options
        for index in range(o.rows):
            row = Drawn(self._ids(ticket, index), self.ends(o), self.state(ticket))
            yield Line(ticket, index, row, self._scribe(ticket))

    def _ids(self, ticket: Ticket, index: int) -> Iterator[int]:
        from minillm.generation.contrastive import contrastive_search
        from minillm.generation.drafting import draft_parts
        from minillm.generation.speculative import speculate

        o, reader = ticket.options, self.reader(ticket.options)
        prompt = ticket.prompt.ids[len(reader.start_ids) :]
        common: dict[str, Any] = {
            "source": ticket.prompt.source,
            "vocab_size": self.size,
            "ends": self.ends(o),
            "max_tokens": ticket.prompt.limit,
        }
        if o.contrastive:
            return contrastive_search(reader, prompt, alpha=o.contrastive, top_k=o.top_k, **common)
        model = None if o.draft is None else draft_parts(o.draft)[0]
        return speculate(
            reader,
            prompt,
            o.sampler,
            self._generator(o, index),
            draft=None if model is None else self.reader(o, model),
            lookup=o.lookup,
            ahead=o.ahead,
            allowed=self.state(ticket),
            **common,
        )

    def searched(self, ticket: Ticket) -> Iterator[Piece]:
        """All pieces of the texts of a beam search, best first."""
        from minillm.generation.beams import beam_search

        o, reader, prompt = ticket.options, self.reader(ticket.options), ticket.prompt.ids
        found = beam_search(
            reader,
            prompt[len(reader.start_ids) :],
            source=ticket.prompt.source,
            beams=o.beams,
            max_tokens=ticket.prompt.limit,
            ends=self.ends(o),
            length_penalty=o.length_penalty,
            n=o.n,
            vocab_size=self.size,
            allowed=self.state(ticket),
        )
        ticket.echo = self._echo(ticket)
        if ticket.echo is not None:
            size = len(prompt) if self._whole(o) else self.prefixes.chunk
            for start in range(0, len(prompt), size):
                ticket.echo.read(reader, prompt[start : start + size], self.size)
        for index, hypothesis in enumerate(found):
            if o.echo:
                yield from ticket.echoed(index, self.tokenizer)
            yield from self._told(ticket, index, hypothesis)

    def _told(self, ticket: Ticket, index: int, text: Hypothesis) -> Iterator[Piece]:
        scribe, state, ends = self._scribe(ticket), self.state(ticket), self.ends(ticket.options)
        if not text.ids:
            yield Piece(ticket, index, "", finish_reason="length")
        likely = self._likelihoods(ticket, text.ids)
        for id in text.ids:
            if state is not None and id not in ends:
                state.advance(id)
            words, reason = scribe.write(id, state)
            ticket.written += 1
            logprob, top = (None, None) if likely is None else next(likely)
            yield Piece.of(ticket, index, words, id, id in ends, logprob, top, reason)
            if reason is not None:
                return

    def _likelihoods(self, ticket: Ticket, ids: list[int]) -> Iterator[Any] | None:
        """(log-probability, most probable ids) of ids that follow the prompt."""
        if ticket.logprobs is None:
            return None
        reader = self.reader(ticket.options)
        reading = reader.begin(ticket.prompt.source)
        rows = [reader.read([(reading, ticket.prompt.ids)])[0]]
        if len(ids) > 1:
            rows.extend(reader.read([(reading, ids[:-1])], every=True)[0])
        top = ticket.logprobs
        return (likelihood(row, id, top, self.size)[1:] for row, id in zip(rows, ids))

    def _row(self, ticket: Ticket, index: int, reading: Reading, unread: Sequence[int]) -> Row:
        o, reader = ticket.options, self.reader(ticket.options)
        return Row(
            reading,
            unread,
            o.sampler,
            self._generator(o, index),
            context=reader.context,
            whole=self._whole(o),
            slides=o.overflow == "slide",
            kept=ticket.prompt.kept,
            limit=ticket.prompt.limit,
            vocab_size=self.size,
            ends=self.ends(o),
            seen=Seen(ticket.prompt.ids) if o.sampler.needs_seen else None,
            state=self.state(ticket),
        )

    @staticmethod
    def _generator(o: Options, index: int) -> Any:
        """The stream of draws of one text: that of the seed for the first."""
        return new_generator(o.seed, index) if index else new_generator(o.seed)

    def _scribe(self, ticket: Ticket) -> Scribe:
        o = ticket.options
        before = ticket.before(self.size)
        return Scribe(self.tokenizer, o.stop, self.ends(o), ticket.prompt.limit, before)

"""How well a decoder expects texts: perplexity, bits per byte and per character."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from minillm.data import corpus
from minillm.data.tables import require_known
from minillm.generation.scoring import led_ids, require_decoder, window, windowed
from minillm.quantities import counted
from minillm.tasks.evaluation import Evaluated, Measure, Meter, unseen
from minillm.tasks.examples import Read
from minillm.tasks.metrics import Metric

DOCUMENTS, STRETCH, STRETCHES, FEW = 20, 1024, 2000, 10


class Perplexity(Measure):
    """Texts are read in windows that begin `stride` tokens apart, as `minillm score` does.

    The interval draws documents where there are DOCUMENTS of them or more, else stretches of
    about STRETCH bytes of the text (at most STRETCHES), which are the same for every model.
    """

    name, unit = "perplexity", "unit"

    def __init__(
        self, context: int | None = None, stride: int | None = None, bos: str = "auto"
    ) -> None:
        self.context, self.stride, self.bos = context, stride, bos

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        """Documents as texts: a .txt file is one, as is each row of a file of rows."""
        require_known(columns, ("text",))
        field = columns.get("text", "text")
        found = corpus.read(path, keep_newlines=True, text_field=field, on_bad=on_bad)
        facts, notices = found.facts, []
        if facts.bad_rows:
            told = counted(facts.bad_rows, "row")
            notices.append(f"skipped {told} of {path}, the first: {facts.first_bad_row}")
        return Read(["".join(document.pieces()) for document in found.documents()], notices)

    def require(self, model: Any) -> None:
        self.stated(model)

    def evaluate(self, model: Any, examples: Sequence[Any], meter: Meter = unseen) -> Evaluated:
        """ValueError for a model that is no decoder, or texts that leave nothing to score."""
        require_decoder(model.model, "eval")
        asked = [led_ids(model.tokenizer, text, self.bos) for text in examples]
        led = max(len(before) for before, _ in asked)
        size = window(model.model, self.context, self.stride, led, "eval")
        total = sum(_scored(*one) for one in asked)
        if not total or size < 1 + (led == 0):
            raise ValueError(
                f"eval: {counted(len(examples), 'text')} and a context of {size + led} leave no "
                "token that has another before it, at least 1 is needed"
            )
        rows, short = [], 0
        units = _unit_bytes(examples)
        with meter("tokens", total) as told:
            for text, (before, ids) in zip(examples, asked, strict=True):
                if not _scored(before, ids):
                    short += 1
                    rows.append(numpy.zeros((1, 4)))
                    continue
                nats = numpy.zeros(len(ids))
                for first, values in windowed(model.model, before, ids, size, self.stride):
                    nats[first : first + len(values)] = values
                    told(len(values))
                rows.append(_in_units(model.tokenizer, text, ids, -nats, bool(before), units))
        unknown = model.tokenizer.role_ids.get("unk")
        hidden = sum(ids.count(unknown) for _, ids in asked)
        notices = [_flattered(hidden, sum(len(ids) for _, ids in asked))] if hidden else []
        if short:
            notices.append(f"left out {counted(short, 'text')} without a token that counts")
        drawn = numpy.concatenate(rows)
        if len(drawn) < FEW:
            notices.append(f"{counted(len(drawn), 'unit')} to draw from, too few for an interval")
        return Evaluated(figures(drawn), notices, hidden)

    def leave_comparable(self, first: Evaluated, second: Evaluated) -> list[str]:
        """Perplexities of other tokens measure no one text, and nothing measures a part of it."""
        if first.hidden != second.hidden:
            first.metrics.clear()
            second.metrics.clear()
            told = f"{first.hidden:,} and {second.hidden:,} tokens stand for text that a tokenizer"
            return [f"{told} does not know, so that nothing can be compared"]
        counts = [one.metrics["perplexity"].statistics[:, 1] for one in (first, second)]
        if numpy.array_equal(counts[0], counts[1]):
            return []
        for one in (first, second):
            del one.metrics["perplexity"]
        told = " and ".join(f"{int(count.sum()):,}" for count in counts)
        return [f"{told} tokens are counted, so that perplexities cannot be compared"]

    def stated(self, model: Any) -> dict[str, Any]:
        """How texts are read: context, stride, and what stands before each window."""
        before, _ = led_ids(model.tokenizer, "a", self.bos)
        size = window(model.model, self.context, self.stride, len(before), "eval")
        return {
            "context": size + len(before),
            "stride": self.stride or max(1, size // 2),
            "bos": "".join(model.tokenizer.id_to_token(id) for id in before) or None,
        }


def _scored(before: list[int], ids: list[int]) -> int:
    """Tokens that have one before them."""
    return len(ids) if before else max(0, len(ids) - 1)


def _flattered(hidden: int, tokens: int) -> str:
    """What is to be said where tokens hide what a text says."""
    verb = "stands" if hidden == 1 else "stand"
    told = f"{hidden:,} of {counted(tokens, 'token')} {verb}"
    return f"{told} for text that the tokenizer does not know: the figures flatter"


def _unit_bytes(texts: Sequence[str]) -> int | None:
    """Bytes of a stretch; None where whole documents are drawn."""
    if len(texts) >= DOCUMENTS:
        return None
    return max(STRETCH, -(-sum(len(text.encode("utf-8")) for text in texts) // STRETCHES))


def _in_units(
    tokenizer: Any, text: str, ids: list[int], nats: numpy.ndarray, led: bool, size: int | None
) -> numpy.ndarray:
    """(units, 4) sums of nats, tokens, bytes and characters, of the tokens that count.

    A token belongs to the stretch that it ends in. The bytes of tokens are scaled to those of the
    text, where a tokenizer changes it; where none of them has any, each has an equal share.
    """
    pieces = [tokenizer.token_bytes(id) for id in ids]
    columns = numpy.zeros((len(ids), 4))
    columns[:, 0], columns[:, 1] = nats, 1
    columns[:, 2] = [len(piece) for piece in pieces]
    columns[:, 3] = [sum(byte & 0xC0 != 0x80 for byte in piece) for piece in pieces]
    whole = len(text.encode("utf-8")), len(text)
    for column, right in zip((2, 3), whole, strict=True):
        own = columns[:, column].sum()
        columns[:, column] = columns[:, column] * (right / own) if own else right / len(ids)
    ends = columns[:, 2].cumsum()
    if not led:
        columns[0] = 0  # nothing before it
    if size is None:
        return columns.sum(axis=0, keepdims=True)
    found = numpy.zeros((max(1, -(-whole[0] // size)), 4))
    places = numpy.minimum(numpy.ceil(ends / size).astype(int) - 1, len(found) - 1)
    numpy.add.at(found, numpy.maximum(places, 0), columns)
    return found


def figures(rows: numpy.ndarray) -> dict[str, Metric]:
    """From sums (units, 4) of nats, tokens, bytes and characters."""

    def bits(column: int) -> Metric:
        return Metric(
            rows,
            lambda sums: sums[..., 0] / math.log(2) / numpy.maximum(sums[..., column], 1),
            lowest=True,
        )

    perplexity = Metric(
        rows,
        lambda sums: numpy.exp(numpy.minimum(sums[..., 0] / numpy.maximum(sums[..., 1], 1), 700.0)),
        lowest=True,
    )
    return {
        "perplexity": perplexity,
        "bits_per_byte": bits(2),
        "bits_per_character": bits(3),
    }

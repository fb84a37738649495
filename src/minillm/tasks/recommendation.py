"""What comes next: items ranked by a decoder after the items that came before (Kang and McAuley
2018), and how often the right one is near the top.

A sequence is a text of names of items with spaces between, as a tokenizer of kind "word" reads it.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy

from minillm.data.tables import Faults, read_rows
from minillm.generation.scoring import require_decoder
from minillm.models.embedding import alike, padded
from minillm.ops import softmax
from minillm.quantities import counted
from minillm.tasks.evaluation import Evaluated, Measure, Meter, unseen
from minillm.tasks.examples import Read
from minillm.tasks.metrics import Metric, standing
from minillm.tensor import Tensor, no_grad

FIRST = 10  # places that count
AT_ONCE = 64  # sequences


class Sequenced(NamedTuple):
    """The items of a user, the earliest first."""

    line: int
    items: tuple[str, ...]


class Recommender:
    """A decoder whose tokens are items. ValueError for one whose tokenizer reads no whole words."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        require_decoder(model, "recommend")
        unknown, start = tokenizer.role_ids.get("unk"), tokenizer.eos_id
        if unknown is None or start is None or len(tokenizer.encode("a-b c")) != 2:
            raise ValueError(
                f"recommend: the {tokenizer.kind} tokenizer does not read whole words, items are "
                "needed as tokens; train one with: minillm train SEQUENCES --tokenizer word "
                "--document-mask"
            )
        self.model, self.start = model.eval(), start
        ids = sorted({*range(tokenizer.vocab_size)} - {*tokenizer.special_tokens.values()})
        self.items = [tokenizer.decode([id]) for id in ids]
        self.ids = dict(zip(self.items, ids, strict=True))
        self.places = numpy.array(ids)
        most = sys.maxsize if model.config.context is None else model.config.context
        self.context = most - 1  # one token begins every sequence

    def known(self, items: Sequence[str]) -> list[str]:
        """Those of the items that the model knows; others say nothing to it."""
        return [item for item in items if item in self.ids]

    def logits(self, histories: Sequence[Sequence[str]]) -> Iterator[tuple[int, numpy.ndarray]]:
        """The place of each history, and logits (items,) of what follows its last items."""
        rows = [
            [self.start, *(self.ids[item] for item in self.known(history)[-self.context :])]
            for history in histories
        ]
        for places in alike([len(row) for row in rows], AT_ONCE):
            ids, _ = padded([rows[place] for place in places], self.start)
            with no_grad():
                found = self.model(ids).numpy()
            for place, logits in zip(places, found, strict=True):
                yield place, logits[len(rows[place]) - 1][self.places].astype(numpy.float64)

    def recommend(
        self, history: Sequence[str], top: int, excluded: Collection[str] = ()
    ) -> list[tuple[str, float]]:
        """The `top` most probable items and their probabilities among all that are not excluded.

        ValueError where none is left.
        """
        [(_, logits)] = self.logits([history])
        allowed = numpy.array([item not in excluded for item in self.items])
        if not allowed.any():
            raise ValueError(
                f"recommend: all {counted(len(self.items), 'item')} are excluded, at least 1 that "
                "is not is needed"
            )
        chances = numpy.zeros(len(self.items))
        chances[allowed] = softmax(Tensor(logits[allowed])).numpy()
        best = numpy.argsort(-chances, kind="stable")[: min(top, int(allowed.sum()))]
        return [(self.items[place], float(chances[place])) for place in best.tolist()]


class NextItem(Measure):
    """Of a decoder of items: where the last item of each sequence stands among all, given the
    others."""

    name = "recommend"
    without = "the most popular items, and what most often follows the last item (Markov)"

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        return read_sequences(path, columns, on_bad)

    def require(self, model: Any) -> None:
        Recommender(*model)

    def evaluate(self, model: Any, examples: Sequence[Any], meter: Meter = unseen) -> Evaluated:
        recommender = Recommender(*model)
        ranks: list[float] = [math.inf] * len(examples)
        with meter("sequences", len(examples)) as told:
            for place, logits in recommender.logits([one.items[:-1] for one in examples]):
                wanted = examples[place].items[-1]
                if wanted in recommender.ids:
                    own = recommender.items.index(wanted)
                    ranks[place] = rank_of(logits, own)
                told(1)
        return Evaluated(standing(ranks, FIRST), notices_of(recommender, examples))

    def baseline(self, learnt: Sequence[Any], examples: Sequence[Any]) -> dict[str, Metric]:
        found: dict[str, Metric] = {}
        for name, ranks in baseline_ranks(learnt, examples).items():
            found |= {f"{name}_{metric}": value for metric, value in standing(ranks, FIRST).items()}
        return found


def baseline_ranks(
    learnt: Sequence[Sequenced], examples: Sequence[Sequenced]
) -> dict[str, list[float]]:
    """Where the last items stand by how often items were had, and by how often they followed the
    one before (Markov), those that did equally often by the first."""
    counts = Counter(item for one in learnt for item in one.items)
    items = sorted(counts, key=lambda item: (-counts[item], item))
    places = {item: place for place, item in enumerate(items)}
    popularity = -numpy.arange(len(items), dtype=float)
    after: dict[str, Counter[str]] = defaultdict(Counter)
    for one in learnt:
        for item, follower in pairwise(one.items):
            after[item][follower] += 1
    found: dict[str, list[float]] = {"popularity": [], "markov": []}
    for one in examples:
        *history, wanted = one.items
        scores = popularity.copy()
        for follower, count in after[history[-1]].items():
            scores[places[follower]] += count * len(items)
        for name, given in (("popularity", popularity), ("markov", scores)):
            known = wanted in places
            found[name].append(rank_of(given, places[wanted]) if known else math.inf)
    return found


def rank_of(scores: numpy.ndarray, own: int) -> float:
    """The rank of an item, 1 for the highest score; of equal ones the earlier stands higher."""
    return float(1 + (scores > scores[own]).sum() + (scores[:own] == scores[own]).sum())


def notices_of(recommender: Recommender, examples: Sequence[Sequenced]) -> list[str]:
    """What of the examples the model does not see."""
    histories = [one.items[:-1] for one in examples]
    strange = sum(len(recommender.known(items)) < len(items) for items in histories)
    long = sum(len(recommender.known(items)) > recommender.context for items in histories)
    missed = sum(one.items[-1] not in recommender.ids for one in examples)
    told = [
        (missed, "end with an item that the model does not know, which counts as missed"),
        (strange, "have such items before it, which are left out"),
        (long, f"have more than {recommender.context} items before it, the last of them are read"),
    ]
    whole = counted(len(examples), "sequence")
    return [f"recommend: {n:,} of {whole} {what}" for n, what in told if n]


def read_sequences(path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
    """Rows with the column text: names of two items or more with spaces between."""
    faults = Faults(path, on_bad)
    rows, told = read_rows(path, ("text",), columns, faults)
    found = []
    for line, fields in rows:
        text = fields["text"]
        items = text.split() if isinstance(text, str) else ()
        if len(items) < 2:
            detail = f"{len(items)} items" if isinstance(text, str) else f"text is {text!r}"
            faults.found(line, "fewer than 2 items", detail, "a text of 2 or more")
            continue
        found.append(Sequenced(line, tuple(items)))
    if len(faults):
        told = [*told, str(faults)]
    if not found:
        raise ValueError(f"read: {path} has no sequence, at least 1 is needed")
    return Read(found, told)

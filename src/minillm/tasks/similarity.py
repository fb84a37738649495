"""How well vectors tell what is alike: pairs with scores, or texts that belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy

from minillm.data.tables import Faults, read_rows
from minillm.models import embedding
from minillm.quantities import counted
from minillm.tasks.examples import Read
from minillm.tasks.metrics import Metric, ndcg_at, normalised, recall_at, spearman

NEAREST = 10


class Pair(NamedTuple):
    """Two texts, and how alike people found them; None: they belong together."""

    line: int
    first: str
    second: str
    score: float | None


def read_pairs(path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
    """Rows with the columns first and second, and score where the pairs are judged."""
    faults = Faults(path, on_bad)
    rows, notices = read_rows(path, ("first", "second"), columns, faults, ("score",))
    found = []
    for line, fields in rows:
        texts = [fields["first"], fields["second"]]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            faults.found(line, "an empty text", f"{texts!r} are no two texts", "a pair of texts")
            continue
        try:
            score = float(fields["score"]) if "score" in fields else None
            if score is not None and not math.isfinite(score):
                raise ValueError
        except (TypeError, ValueError):
            faults.found(line, "no score", f"score is {fields['score']!r}", "a number")
            continue
        found.append(Pair(line, fields["first"], fields["second"], score))
    if len(faults):
        notices = [*notices, str(faults)]
    if len({pair.score is None for pair in found}) > 1:
        raise ValueError(f"read: {path} has a score for some pairs only, for all or none is needed")
    if len(found) < 2:
        raise ValueError(f"read: {path} has {counted(len(found), 'pair')}, at least 2 are needed")
    return Read(found, notices)


def measured(embedder: embedding.Embedder, pairs: Sequence[Pair]) -> dict[str, Metric]:
    """The figures of an encoder's vectors; `figures` says which."""
    first, second = (unit(embedder.encode(texts)) for texts in sides(pairs))
    return figures(pairs, first @ second.T)


def overlapping(pairs: Sequence[Pair]) -> dict[str, Metric]:
    """The same by the share of words that two texts have in common, without a model."""
    words = [[set(normalised(text).split()) for text in texts] for texts in sides(pairs)]
    alike = [[len(a & b) / max(1, len(a | b)) for b in words[1]] for a in words[0]]
    return figures(pairs, numpy.array(alike))


def figures(pairs: Sequence[Pair], alike: numpy.ndarray) -> dict[str, Metric]:
    """From likenesses (N, N) of all first with all second texts.

    With scores: the rank correlation of the pairs' likeness with them. Without: how often the
    second text, or one equal to it, is among those most like the first of its pair.
    """
    if pairs[0].score is not None:
        return {"spearman": spearman(alike.diagonal(), [pair.score for pair in pairs])}
    ranked = numpy.argsort(-alike, axis=1, kind="stable")[:, :NEAREST]
    texts = [pair.second for pair in pairs]
    order = [list(dict.fromkeys(texts[place] for place in row)) for row in ranked.tolist()]
    wanted: list[set[Any]] = [{text} for text in texts]
    return {
        "recall_at_1": recall_at(1, wanted, order),
        f"recall_at_{NEAREST}": recall_at(NEAREST, wanted, order),
        f"ndcg_at_{NEAREST}": ndcg_at(NEAREST, wanted, order),
    }


def sides(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    """The first texts and the second ones."""
    return [pair.first for pair in pairs], [pair.second for pair in pairs]


def unit(vectors: numpy.ndarray) -> numpy.ndarray:
    """Vectors of length 1; one of zeros stays."""
    norms = numpy.linalg.norm(vectors.astype(numpy.float64), axis=1, keepdims=True)
    return vectors / numpy.where(norms == 0, 1, norms)

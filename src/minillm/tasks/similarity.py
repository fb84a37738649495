"""How well vectors tell what is alike: pairs with scores, or texts that belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy

from minillm.data.tables import Faults, read_rows
from minillm.models import embedding
from minillm.quantities import counted
from minillm.tasks.examples import Read
from minillm.tasks.metrics import Metric, normalised, spearman, standing

NEAREST = 10
ROWS_AT_ONCE = 256  # of likenesses: each has a number for every candidate


class Pair(NamedTuple):
    """Two texts, and how alike people found them; None: they belong together.

    `negative` is a text that looks as if it belonged to the first and does not, None without one.
    """

    line: int
    first: str
    second: str
    score: float | None
    negative: str | None = None


def read_pairs(path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
    """Rows with the columns first and second; score where the pairs are judged, or negative."""
    faults = Faults(path, on_bad)
    rows, notices = read_rows(path, ("first", "second"), columns, faults, ("score", "negative"))
    found = []
    for line, fields in rows:
        names = ("first", "second", *(["negative"] if "negative" in fields else []))
        texts = [fields[name] for name in names]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            told = "no two texts" if len(texts) == 2 else "no three texts"
            faults.found(line, "an empty text", f"{texts!r} are {told}", "a pair of texts")
            continue
        try:
            score = float(fields["score"]) if "score" in fields else None
            if score is not None and not math.isfinite(score):
                raise ValueError
        except (TypeError, ValueError):
            faults.found(line, "no score", f"score is {fields['score']!r}", "a number")
            continue
        found.append(Pair(line, fields["first"], fields["second"], score, fields.get("negative")))
    if len(faults):
        notices = [*notices, str(faults)]
    _require_alike(path, found)
    return Read(found, notices)


def _require_alike(path: str, pairs: Sequence[Pair]) -> None:
    """ValueError unless all pairs have a score, or all a negative, or none of them."""
    for name in ("score", "negative"):
        if len({getattr(pair, name) is None for pair in pairs}) > 1:
            raise ValueError(
                f"read: {path} has a {name} for some pairs only, for all or none is needed"
            )
    if len(pairs) < 2:
        raise ValueError(f"read: {path} has {counted(len(pairs), 'pair')}, at least 2 are needed")
    if pairs[0].score is not None and pairs[0].negative is not None:
        raise ValueError(f"read: {path} has a score and a negative, one of them is needed")


def measured(
    embedder: embedding.Embedder, pairs: Sequence[Pair], others: Sequence[str] = ()
) -> dict[str, Metric]:
    """The figures of an encoder's vectors.

    With scores: the rank correlation of the pairs' cosines with them. Without: `ranking` among the
    second texts and `others`.
    """
    first = unit(embedder.encode([pair.first for pair in pairs]))
    if pairs[0].score is not None:
        second = unit(embedder.encode([pair.second for pair in pairs]))
        return correlation(pairs, (first * second).sum(axis=1))
    texts = candidates(pairs, others)
    vectors = unit(embedder.encode(texts))
    return ranking(pairs, texts, lambda rows: first[rows] @ vectors.T)


def overlapping(pairs: Sequence[Pair], others: Sequence[str] = ()) -> dict[str, Metric]:
    """The same by the share of words that two texts have in common, without a model."""
    first = [_words(pair.first) for pair in pairs]
    if pairs[0].score is not None:
        second = [_words(pair.second) for pair in pairs]
        return correlation(pairs, numpy.array(list(map(_jaccard, first, second))))
    texts = candidates(pairs, others)
    known = [_words(text) for text in texts]

    def alike(rows: slice) -> numpy.ndarray:
        return numpy.array([[_jaccard(one, other) for other in known] for one in first[rows]])

    return ranking(pairs, texts, alike)


def candidates(pairs: Sequence[Pair], others: Sequence[str] = ()) -> list[str]:
    """Each second text and each other one, once."""
    return list(dict.fromkeys([*(pair.second for pair in pairs), *others]))


def correlation(pairs: Sequence[Pair], alike: numpy.ndarray) -> dict[str, Metric]:
    """From the likeness (N,) of each pair."""
    return {"spearman": spearman(alike, [pair.score for pair in pairs])}


def ranking(
    pairs: Sequence[Pair], texts: Sequence[str], alike: Callable[[slice], numpy.ndarray]
) -> dict[str, Metric]:
    """How high the second text of a pair stands among `texts`, the one most like the first on top.

    `alike` gives the likenesses (rows, len(texts)) of some first texts; of equal ones the earlier
    candidate stands higher.
    """
    place = {text: number for number, text in enumerate(texts)}
    wanted = numpy.array([place[pair.second] for pair in pairs])
    ranks: list[float] = []
    for start in range(0, len(pairs), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        found, own = alike(rows), wanted[rows, None]
        score = numpy.take_along_axis(found, own, axis=1)
        earlier = (found == score) & (numpy.arange(len(texts)) < own)
        ranks += (1 + (found > score).sum(axis=1) + earlier.sum(axis=1)).tolist()
    return standing(ranks, NEAREST)


def _words(text: str) -> set[str]:
    return set(normalised(text).split())


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def unit(vectors: numpy.ndarray) -> numpy.ndarray:
    """Vectors of length 1; one of zeros stays."""
    norms = numpy.linalg.norm(vectors.astype(numpy.float64), axis=1, keepdims=True)
    return vectors / numpy.where(norms == 0, 1, norms)

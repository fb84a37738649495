"""Contrastive search: probable, and unlike what the text already holds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy

from minillm.generation.reading import Reader, Reading
from minillm.generation.sampling import best_ids, log_probabilities


def contrastive_search(
    reader: Reader,
    prompt: Sequence[int],
    *,
    alpha: float = 0.6,
    top_k: int = 4,
    source: Sequence[int] | None = None,
    vocab_size: int | None = None,
    ends: Collection[int] = (),
    max_tokens: int | None = None,
) -> Iterator[int]:
    """Ids that follow `prompt`, each of the `top_k` most probable the one with the largest

        (1 - alpha) * probability - alpha * max over the text of cos(its features, theirs)

    (Su et al. 2022, equation 5). The features of an id are what the model's head reads after it;
    the text is the prompt and what follows, of an encoder-decoder the target. The first of equals
    wins; alpha 0 or top_k 1 is greedy search. Probabilities are among the ids below `vocab_size`.

    Ends with an id of `ends`, or after max_tokens (None: never). Each id is read before it is
    chosen, so the last has to fit into the context too. Up to top_k copies of the cache are kept,
    each of which reads one candidate a step: nothing is copied after the first.

    ValueError for alpha outside 0 to 1, top_k below 1, max_tokens below 0, a full context, or
    logits that are not finite.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: {alpha}, 0 <= alpha <= 1 is needed")
    if top_k < 1:
        raise ValueError(f"top-k: {top_k}, 1 or more is needed for contrastive search")
    if max_tokens is not None and max_tokens < 0:
        raise ValueError(f"max-tokens: {max_tokens}, 0 or more is needed")
    text = [*reader.start_ids, *prompt]
    return _chosen(reader, text, alpha, top_k, source, vocab_size, ends, max_tokens)


def _chosen(
    reader: Reader,
    text: list[int],
    alpha: float,
    top_k: int,
    source: Sequence[int] | None,
    vocab_size: int | None,
    ends: Collection[int],
    max_tokens: int | None,
) -> Iterator[int]:
    first = reader.begin(source)
    readings = [first]
    features = reader.read([(first, text)], every=True, features=True)[0]
    last, before = features[-1], _directions(features)
    written = 0
    while written != max_tokens and not (written and text[-1] in ends):
        likely = log_probabilities(reader.logits(last[None])[0, :vocab_size])
        ids = best_ids(likely, top_k).tolist()
        readings += [_at(first, len(text)) for _ in ids[len(readings) :]]
        found = _candidates(reader, readings, text, ids)
        directions = _directions(found)
        same = (directions @ before.T).max(axis=1)
        place = int(((1 - alpha) * numpy.exp(likely[ids]) - alpha * same).argmax())
        for other, reading in enumerate(readings):
            if other != place:
                reading.rewind(min(reading.length, len(text)))
        text.append(ids[place])
        before = numpy.concatenate((before, directions[place : place + 1]))
        last = found[place]
        written += 1
        yield ids[place]


def _candidates(
    reader: Reader, readings: list[Reading], text: list[int], ids: list[int]
) -> numpy.ndarray:
    """Features (n, C) of each of `ids` after the text; each reading catches up with it first."""
    missed = [text[reading.length :] for reading in readings]
    if getattr(reader.model, "reads_whole", False):  # two ids at once would be others
        for reading, late in zip(readings, missed):
            for id in late:
                reader.read([(reading, [id])])
        missed = [[] for _ in readings]
    batch = [(reading, [*late, id]) for reading, late, id in zip(readings, missed, ids)]
    return numpy.stack(reader.read(batch, features=True))


def _at(reading: Reading, length: int) -> Reading:
    copy = reading.fork()
    copy.rewind(min(copy.length, length))
    return copy


def _directions(features: numpy.ndarray) -> numpy.ndarray:
    """Rows (n, C) of length 1 in float64; 0 stays 0."""
    wide = features.astype(numpy.float64)
    return wide / numpy.maximum(numpy.linalg.norm(wide, axis=1, keepdims=True), 1e-300)

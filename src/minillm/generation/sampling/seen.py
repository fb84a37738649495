"""Which tokens a text holds, and how often each was generated."""

from __future__ import annotations

from collections.abc import Iterable

import numpy


class Seen:
    """The tokens of one text, for the penalties: those of the prompt, and the generated ones.

        seen = Seen(prompt_ids)
        seen.push(sampler.pick(logits, generator, seen))

    `push` and `pop` take constant time. For an encoder-decoder the prompt is what the target begins
    with, not the source. ValueError for an id below 0.
    """

    def __init__(self, prompt: Iterable[int] = (), generated: Iterable[int] = ()) -> None:
        known = numpy.unique(numpy.fromiter((int(i) for i in prompt), numpy.int64))
        if len(known) and known[0] < 0:
            raise ValueError(f"seen: id {known[0]}, 0 or more is needed")
        self._prompt = self._size = len(known)
        self._ids = numpy.concatenate((known, numpy.zeros(16, numpy.int64)))
        self._counts = numpy.zeros(len(self._ids))
        self._place = {int(id): place for place, id in enumerate(known)}
        self._generated: list[int] = []
        for id in generated:
            self.push(id)

    def push(self, id: int) -> None:
        """One more generated token."""
        id = int(id)
        place = self._place.get(id)
        if place is None:
            place = self._new_place(id)
        self._counts[place] += 1
        self._generated.append(id)

    def pop(self) -> int:
        """Takes the last generated token back. RuntimeError where there is none."""
        if not self._generated:
            raise RuntimeError("seen: no generated token to take back, at least 1 is needed")
        id = self._generated.pop()
        place = self._place[id]
        self._counts[place] -= 1
        if place >= self._prompt and not self._counts[place]:  # then it is the last place
            del self._place[id]
            self._size -= 1
        return id

    def fork(self) -> Seen:
        """An independent copy."""
        copy = object.__new__(Seen)
        copy._prompt, copy._size = self._prompt, self._size
        copy._ids, copy._counts = self._ids.copy(), self._counts.copy()
        copy._place, copy._generated = self._place.copy(), self._generated.copy()
        return copy

    def __len__(self) -> int:
        """How many tokens were generated."""
        return len(self._generated)

    def among(self, size: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Each id of the text below `size` once, and how often it was generated (float64)."""
        ids, counts = self._ids[: self._size], self._counts[: self._size]
        if self._size and ids.max() >= size:
            below = ids < size
            return ids[below], counts[below]
        return ids, counts

    def _new_place(self, id: int) -> int:
        if id < 0:
            raise ValueError(f"seen: id {id}, 0 or more is needed")
        if self._size == len(self._ids):
            self._ids = numpy.concatenate((self._ids, numpy.zeros_like(self._ids)))
            self._counts = numpy.concatenate((self._counts, numpy.zeros_like(self._counts)))
        place = self._place[id] = self._size
        self._ids[place] = id
        self._size += 1
        return place

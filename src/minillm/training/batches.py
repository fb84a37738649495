"""The batches of a step; on a GPU those of the next one are built while it computes."""

from __future__ import annotations

from typing import Any

from minillm.training.objective import Objective


class Batches:
    """Batches of an objective by the number of their first sample.

    They are a function of that number, so that it does not matter when they are built.
    """

    def __init__(self, size: int, parts: int) -> None:
        self.size, self.parts = size, parts
        self._ahead: tuple[Objective, int, list[Any]] | None = None

    def take(self, objective: Objective, first: int) -> list[Any]:
        """Those of a step that begins with sample `first`."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is objective and ahead[1] == first:
            return ahead[2]
        return self._built(objective, first)

    def build_next(self, objective: Objective, first: int) -> list[Any]:
        """Build those of the step after one that begins with `first`, to be taken then."""
        first += self.size * self.parts
        self._ahead = objective, first, self._built(objective, first)
        return self._ahead[2]

    def _built(self, objective: Objective, first: int) -> list[Any]:
        return [objective.batch(first + n * self.size, self.size) for n in range(self.parts)]

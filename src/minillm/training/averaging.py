"""The average of the weights over the last steps, which is often better than the last of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from minillm import ops
from minillm.arrays import Array
from minillm.nn.module import Parameter


class Average:
    """Exponential moving average (Polyak and Juditsky 1992) of the parameters that are trained.

    After update t it is d * average + (1 - d) * weights, where d is the smaller of `decay` and
    (1 + t) / (10 + t): so that the first weights, which nobody wants, are forgotten in short runs.
    """

    def __init__(self, trained: Mapping[str, Parameter], decay: float) -> None:
        self.trained, self.decay = trained, decay
        self.arrays: dict[str, Array] = {n: p.data.copy() for n, p in trained.items()}

    def update(self, updates: int) -> None:
        """Take in the weights after so many updates."""
        rest = 1 - min(self.decay, (1 + updates) / (10 + updates))
        pairs = ((self.arrays[name], parameter.data) for name, parameter in self.trained.items())
        ops.lerp.compute(*(array for pair in pairs for array in pair), weight=rest)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the model has the averages for weights."""
        own = {name: parameter.data for name, parameter in self.trained.items()}
        try:
            for name, parameter in self.trained.items():
                parameter.data = self.arrays[name]
            yield
        finally:
            for name, parameter in self.trained.items():
                parameter.data = own[name]

"""Keys and values of the positions seen so far."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy

from minillm.arrays import Array, copied, xp_of
from minillm.quantities import counted
from minillm.tensor import Tensor, of


class Cache:
    """One verb: `update(layer, k, v)` appends and returns everything. `length` positions so far.

    RuntimeError for keys or values on the tape: their gradient would be lost.

    Buffers of (B, Hkv, capacity, D) double when they are full. With a `capacity` they have it from
    the first position on, and no more: a ValueError is what does not fit.
    """

    def __init__(self, layers: int, capacity: int | None = None) -> None:
        self.length, self.capacity = 0, capacity
        self.bound: Any = None  # what the extension made of `buffers`, as long as they stay
        self._filled = [0] * layers
        self._buffers: list[tuple[Array, Array] | None] = [None] * layers

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        new = without_tape(k, v)
        start = self._filled[layer]
        end = start + k.shape[2]
        keys, values = self._room(layer, *new, end)
        keys[:, :, start:end], values[:, :, start:end] = new
        self._filled[layer] = end
        if layer == len(self._filled) - 1:
            self.length = end
        return of(keys[:, :, :end]), of(values[:, :, :end])

    def _room(self, layer: int, k: Array, v: Array, end: int) -> tuple[Array, Array]:
        buffers = self._buffers[layer]
        if buffers is None or buffers[0].shape[2] < end:
            grown = tuple(
                self._grown(old, new, end) for old, new in zip(buffers or (None, None), (k, v))
            )
            buffers = self._buffers[layer] = grown[0], grown[1]
            self.bound = None
        return buffers

    def _grown(self, old: Array | None, new: Array, end: int) -> Array:
        capacity = max(end, 32 if old is None else 2 * old.shape[2])
        if self.capacity is not None:
            if end > self.capacity:
                raise ValueError(
                    f"cache: {counted(end, 'position')}, at most {self.capacity:,} are possible"
                )
            capacity = self.capacity
        batch, heads, _, width = new.shape
        buffer = xp_of(new).empty((batch, heads, capacity, width), new.dtype)
        if old is not None:
            buffer[:, :, : old.shape[2]] = old
        return buffer

    def reserve(self, end: int, shapes: Sequence[tuple[int, int, int]], xp: Any = numpy) -> None:
        """Room in every layer for the positions before `end`, in arrays of `xp`.

        `shapes` are each layer's heads, and features of a head's key and value, for a text that
        another writes into `buffers`; `fill` then says how far.
        """
        for layer, (heads, *widths) in enumerate(shapes):
            buffers = self._buffers[layer]
            if buffers is None or buffers[0].shape[2] < end:
                like = [xp.empty((1, heads, 0, width), numpy.float32) for width in widths]
                self._room(layer, like[0], like[1], end)

    @property
    def buffers(self) -> list[tuple[Array, Array]]:
        """Keys and values (B, Hkv, capacity, D) of each layer that has any."""
        return [pair for pair in self._buffers if pair]

    def fill(self, length: int) -> None:
        """Every layer holds that many positions now."""
        self.length = length
        self._filled = [length] * len(self._filled)

    def reaches(self, length: int) -> bool:
        """Whether it can go back to `length` positions."""
        return True

    def rewind(self, length: int) -> None:
        """Forget all positions from `length` on, keep the memory."""
        self.length = min(self.length, length)
        self._filled = [min(filled, length) for filled in self._filled]

    def clear(self) -> None:
        """Forget all positions, keep the memory."""
        self.rewind(0)

    def fork(self) -> Self:
        """An independent copy."""
        twin = copy.copy(self)
        twin.bound = None
        twin._filled = self._filled.copy()
        twin._buffers = [pair and (copied(pair[0]), copied(pair[1])) for pair in self._buffers]
        return twin

    @property
    def nbytes(self) -> int:
        return int(numpy.sum([b.nbytes for pair in self._buffers if pair for b in pair]))

    def to_arrays(self) -> dict[str, Array]:
        """What is kept, by name."""
        return {
            f"{layer}.{number}": part[:, :, : self.length]
            for layer, pair in enumerate(self._buffers)
            for number, part in enumerate(pair or ())
        }

    def from_arrays(self, arrays: dict[str, Array], length: int) -> None:
        """Take over what `to_arrays` gave of a cache of `length` positions, ValueError if not."""
        for name, array in arrays.items():
            if array.shape[2] != length:
                raise ValueError(
                    f"cache: layer {name.split('.')[0]} holds "
                    f"{counted(array.shape[2], 'position')}, {length} are needed"
                )
        self.clear()
        self._buffers, self.bound = [None] * len(self._filled), None
        for layer in range(len(self._filled)):
            k, v = (of(arrays[f"{layer}.{number}"]) for number in (0, 1))
            self.update(layer, k, v)


class SourceMemory:
    """Beside what a decoder's cache keeps: the source's keys and values, computed once a layer."""

    _memory: dict[int, tuple[Tensor, Tensor]] | None = None

    def memory(
        self, layer: int, project: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """What `project` gave for `layer` the first time; it is not called again.

        RuntimeError for keys or values on the tape: their gradient would be lost.
        """
        if self._memory is None:
            self._memory = {}
        if layer not in self._memory:
            k, v = project()
            without_tape(k, v)
            self._memory[layer] = k, v
        return self._memory[layer]

    def fork(self) -> Self:
        """An independent copy; what belongs to the source is shared."""
        twin: Self = super().fork()  # type: ignore[misc]
        twin._memory = dict(self._memory or {})
        return twin

    def clear(self) -> None:
        """Forget all positions and the source."""
        super().clear()  # type: ignore[misc]
        self._memory = {}

    @property
    def nbytes(self) -> int:
        kept = (part.data.nbytes for pair in (self._memory or {}).values() for part in pair)
        return super().nbytes + sum(kept)  # type: ignore[misc, no-any-return]


class EncoderDecoderCache(SourceMemory, Cache):
    """A cache of the decoder that keeps the source's keys and values too."""


def without_tape(k: Tensor, v: Tensor) -> tuple[Array, Array]:
    """The arrays; RuntimeError where a gradient would be lost."""
    if k.requires_grad or v.requires_grad:
        raise RuntimeError("cache: keys and values require a gradient, no_grad() is needed")
    return k.data, v.data

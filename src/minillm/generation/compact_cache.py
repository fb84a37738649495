"""Caches that keep keys and values in fewer bytes, and of windows only what they need."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy

from minillm.arrays import Array, copied, xp_of
from minillm.formats.block_encoding import round_bf16
from minillm.generation.cache import Cache, EncoderDecoderCache, SourceMemory, without_tape
from minillm.quantities import counted
from minillm.tensor import Tensor, of

SLACK = 64  # positions behind a window that are kept, so that drafts can be taken back
DTYPES = ("float32", "bf16", "int8")


def encode(x: Array, dtype: str) -> list[Array]:
    """What is kept of x (B, H, T, D): bfloat16 words; or int8 and a float32 scale a position.

    Rounding to bfloat16 changes a number by at most 2^-8 of it, int8 by 1/254 of the largest of
    its D (half a step).
    """
    if dtype == "bf16":
        return [round_bf16(x)]
    xp = xp_of(x)
    largest = xp.abs(x).max(axis=-1, keepdims=True)
    scale = (xp.where(largest > 0, largest, 1) / 127).astype(xp.float32)
    return [xp.rint(x / scale).astype(xp.int8), scale]


def decode(parts: Sequence[Array], dtype: str) -> Array:
    """float32 again."""
    if dtype == "bf16":
        return (parts[0].astype(numpy.uint32) << 16).view(numpy.float32)
    return parts[0] * parts[1]


class CompactCache:
    """As `Cache`, with keys and values in "bf16" or "int8", decoded whenever they are read.

    Layers with a window keep the positions it may still see and 64 before them. Going back further
    than that is a RuntimeError, all the way to 0 is not.
    """

    def __init__(
        self, layers: int, dtype: str, windows: Sequence[int | None] | None = None
    ) -> None:
        if dtype not in DTYPES[1:]:
            raise ValueError(f"cache: dtype {dtype!r}, bf16 or int8 is needed")
        self.dtype, self.length = dtype, 0
        self._layers = [_Layer(dtype, window) for window in windows or [None] * layers]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append, and return what the new positions may see, decoded."""
        kept = self._layers[layer].append(*without_tape(k, v))
        if layer == len(self._layers) - 1:
            self.length = self._layers[layer].end
        return of(kept[0]), of(kept[1])

    def reaches(self, length: int) -> bool:
        """Whether it can go back to `length` positions."""
        return all(layer.reaches(length) for layer in self._layers)

    def rewind(self, length: int) -> None:
        """Forget all positions from `length` on; where one layer cannot, none has changed."""
        for layer in self._layers:
            if not layer.reaches(length):
                raise RuntimeError(
                    f"cache: back to {counted(length, 'position')}, a layer with a window of "
                    f"{layer.window} keeps only those from {layer.first} on; begin the text again"
                )
        for layer in self._layers:
            layer.rewind(length)
        self.length = min(self.length, length)

    def clear(self) -> None:
        """Forget all positions, keep the memory."""
        self.rewind(0)

    def fork(self) -> Self:
        """An independent copy."""
        twin = copy.copy(self)
        twin._layers = [layer.fork() for layer in self._layers]
        return twin

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for layer in self._layers for part in layer.parts)

    def to_arrays(self) -> dict[str, Array]:
        """What is kept, by name."""
        return {
            f"{place}.{number}": part[:, :, : layer.end - layer.first]
            for place, layer in enumerate(self._layers)
            for number, part in enumerate(layer.parts)
        } | {f"{place}.first": numpy.array(x.first) for place, x in enumerate(self._layers)}

    def from_arrays(self, arrays: dict[str, Array], length: int) -> None:
        """Take over what `to_arrays` gave of a cache of `length` positions, ValueError if not."""
        for name, array in arrays.items():
            number, _, part = name.partition(".")
            if part != "first":
                first = int(arrays[f"{number}.first"])
                self._layers[int(number)].check(number, first, array.shape[2], length)
        for place, layer in enumerate(self._layers):
            count = sum(name.startswith(f"{place}.") for name in arrays) - 1
            layer.parts = [arrays[f"{place}.{number}"].copy() for number in range(count)]
            layer.first, layer.end = int(arrays[f"{place}.first"]), length
        self.length = length


class _Layer:
    """Positions `first` to `end` of one layer: `parts` of the keys, then of the values."""

    def __init__(self, dtype: str, window: int | None) -> None:
        self.dtype, self.window = dtype, window
        self.first = self.end = 0
        self.parts: list[Array] = []

    def append(self, k: Array, v: Array) -> tuple[Array, Array]:
        new, count = [*encode(k, self.dtype), *encode(v, self.dtype)], k.shape[2]
        self._make_room(new, count)
        place = self.end - self.first
        for part, values in zip(self.parts, new):
            part[:, :, place : place + count] = values
        self.end += count
        seen = self.end - self.first
        if self.window is not None:
            seen = min(seen, self.window - 1 + count)
        shown = [part[:, :, place + count - seen : place + count] for part in self.parts]
        half = len(shown) // 2
        return decode(shown[:half], self.dtype), decode(shown[half:], self.dtype)

    def _make_room(self, new: Sequence[Array], count: int) -> None:
        held = self.end - self.first
        if self.parts and held + count <= self.parts[0].shape[2]:
            return
        keep = held if self.window is None else min(held, self.window - 1 + SLACK)
        capacity = max(keep + count, 32)
        if self.parts and (self.window is None or 2 * (keep + count) > self.parts[0].shape[2]):
            capacity = max(capacity, 2 * self.parts[0].shape[2])
        if self.window is not None:
            capacity = max(keep + count, min(capacity, 2 * (self.window + SLACK)))
        xp = xp_of(*new)
        grown = [xp.empty((*p.shape[:2], capacity, p.shape[3]), p.dtype) for p in new]
        for part, old in zip(grown, self.parts):
            part[:, :, :keep] = old[:, :, held - keep : held]
        self.parts, self.first = grown, self.end - keep

    def check(self, number: str, first: int, count: int, length: int) -> None:
        """ValueError unless `count` positions from `first` on are those that are needed."""
        needed = 0 if self.window is None else max(0, length - self.window + 1)
        if not 0 <= first <= needed or first + count != length:
            raise ValueError(
                f"cache: layer {number} holds {counted(count, 'position')} from {first} on, those "
                f"from {needed:,} to {length} are needed"
            )

    def reaches(self, length: int) -> bool:
        if not length or not self.first or length >= self.end:
            return True
        return length - self.first >= (self.window or 0) - 1

    def rewind(self, length: int) -> None:
        self.end = min(self.end, length)
        self.first = min(self.first, length)

    def fork(self) -> _Layer:
        twin = copy.copy(self)
        twin.parts = [copied(part) for part in self.parts]
        return twin


class CompactEncoderDecoderCache(SourceMemory, CompactCache):
    """The same for a decoder that reads a source; what is kept of that stays float32."""


def new_cache(config: Any, dtype: str) -> Any:
    """An empty cache for a model of this configuration."""
    decodes = config.kind == "encoder-decoder"
    if dtype == "float32":
        return (EncoderDecoderCache if decodes else Cache)(config.n_layer)
    kind = CompactEncoderDecoderCache if decodes else CompactCache
    return kind(config.n_layer, dtype, getattr(config, "windows", None))

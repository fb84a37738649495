"""Batches on their way to a GPU: by pinned memory and a stream of their own, while it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy

from minillm.arrays import Array

ALIGNED = 64  # bytes; 16 are what kernels read at once
SENT = "biuf"  # kinds of arrays that a GPU knows


def mapped(batch: Any, array: Callable[[numpy.ndarray], Any], other: Callable[[Any], Any]) -> Any:
    """A batch with each of its arrays, and all else but None, replaced; tuples stay tuples."""
    if isinstance(batch, numpy.ndarray) and batch.dtype.kind in SENT:
        return array(batch)
    if isinstance(batch, tuple):
        parts = [mapped(part, array, other) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return None if batch is None else other(batch)


def arrays_of(batch: Any) -> list[numpy.ndarray]:
    """The arrays of a batch, in order."""
    found: list[numpy.ndarray] = []
    mapped(batch, found.append, lambda part: None)
    return found


class Part(NamedTuple):
    """A batch on the GPU: all its bytes, and its arrays there, views of them."""

    raw: Array
    arrays: list[Array]


def layout(arrays: Sequence[numpy.ndarray]) -> tuple[list[int], int]:
    """Where each array begins among the bytes of a batch, and how many these are."""
    starts, end = [], 0
    for array in arrays:
        starts.append(end)
        end += -(-array.nbytes // ALIGNED) * ALIGNED
    return starts, end


def views(raw: Array, arrays: Sequence[numpy.ndarray]) -> list[Array]:
    """The arrays of a batch within its bytes."""
    return [
        raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        for start, array in zip(layout(arrays)[0], arrays)
    ]


class _Slot:
    """Room for the batches of a step, here and there."""

    def __init__(self) -> None:
        self.batches: list[Any] | None = None
        self.parts: list[Part] = []
        self.pinned = numpy.empty(0, numpy.uint8)
        self.there: Array = None
        self.sent: Any = None  # events: on the stream that copies
        self.used: Any = None  # and on the one that computes


class Staging:
    """Two steps' batches on a GPU, the one that is computed and the next."""

    def __init__(self, cupy: ModuleType) -> None:
        self.cupy, self.number = cupy, cupy.cuda.runtime.getDevice()
        # It waits for the others by events alone: a blocking stream would for all of the default's.
        self.copying = cupy.cuda.Stream(non_blocking=True)
        self._slots = [_Slot(), _Slot()]

    def send(self, batches: list[Any]) -> None:
        """Begin to copy the batches of a step; nobody waits for it."""
        self.cupy.cuda.Device(self.number).use()
        self._slots.reverse()
        slot, arrays = self._slots[0], [arrays_of(batch) for batch in batches]
        ends = numpy.cumsum([0] + [layout(part)[1] for part in arrays]).tolist()
        self._make_room(slot, ends[-1])
        slot.parts = []
        for start, end, part in zip(ends, ends[1:], arrays):
            for here, array in zip(views(slot.pinned[start:end], part), part):
                here[...] = array
            there = slot.there[start:end]
            slot.parts.append(Part(there, views(there, part)))
        if ends[-1]:
            slot.there[: ends[-1]].set(slot.pinned[: ends[-1]], stream=self.copying)
        slot.sent, slot.batches = self.copying.record(), batches

    def take(self, batches: list[Any]) -> list[Part]:
        """The batches of a step for the current stream, sent now if they were not before.

        Their GPU becomes the current one of this thread.
        """
        self.cupy.cuda.Device(self.number).use()
        if self._slots[0].batches is not batches:
            self.send(batches)
        slot = self._slots[0]
        self.cupy.cuda.get_current_stream().wait_event(slot.sent)
        return slot.parts

    def used(self) -> None:
        """All work on what was taken last is given to the current stream."""
        self._slots[0].used = self.cupy.cuda.get_current_stream().record()

    def _pinned(self, size: int) -> Any:
        try:
            return self.cupy.cuda.alloc_pinned_memory(max(1, size))
        except self.cupy.cuda.runtime.CUDARuntimeError as error:
            raise MemoryError(f"no {size:,} bytes of pinned memory for batches: {error}") from None

    def _make_room(self, slot: _Slot, size: int) -> None:
        """Let the copy wait for whoever reads what lies there, the host for what it copies from."""
        if slot.sent is not None and not slot.sent.done:
            slot.sent.synchronize()
        if slot.used is not None:
            self.copying.wait_event(slot.used)
        if slot.there is None or slot.there.size < size:
            slot.pinned = numpy.frombuffer(self._pinned(size), numpy.uint8, size)
            slot.parts, slot.there = [], None  # before more is taken
            slot.there = self.cupy.empty(size, numpy.uint8)
            # What the pool gives may still be read by what the default stream has to do.
            self.copying.wait_event(self.cupy.cuda.get_current_stream().record())

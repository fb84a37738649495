"""Arrays that lie in a file in another form and become float32 when they are asked for."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from minillm import blocks
from minillm.arrays import Array


def kind_of(array: Any) -> str:
    """How an array is stored: "Q4_1", or "F32" and the like for one that is not deferred."""
    plain = array.dtype
    return getattr(array, "kind", f"{plain.kind.upper()}{8 * plain.itemsize}")


class Deferred:
    """An array of float32 known by its shape; `decode` does the work, each time it is called."""

    dtype = numpy.dtype(numpy.float32)
    kind: str
    shape: tuple[int, ...]
    nbytes: int  # in the file

    def decode(self, out: Array | None = None) -> Array:
        """The numbers, in `out` (contiguous float32 of this shape) if it is given.

        Without `out` the array may be a read-only view of the file.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no decode")

    @property
    def runs_as_blocks(self) -> bool:
        """Whether `blocks` gives something that is smaller than float32."""
        return False

    def blocks(self) -> tuple[str, Array] | None:
        """Kind and bytes (rows, bytes of a row) of a matrix that a file holds in just these rows.

        None if there are none: then `decode` is the only way to the numbers.
        """
        return None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def T(self) -> Any:
        """The transposed array, deferred."""
        return Changed(self, self.shape[::-1], numpy.transpose)

    def __getitem__(self, key: Any) -> Any:
        """A part of the decoded array."""
        return self.decode()[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return numpy.array(self.decode(), dtype, copy=copy)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind}, shape={self.shape})"


class Blocks(Deferred):
    """Rows of blocks of one kind, `raw` bytes (n,) that may be memory-mapped."""

    def __init__(self, raw: Array, kind: str, shape: tuple[int, ...]) -> None:
        self.raw, self.kind, self.shape = raw, kind, shape
        self.nbytes = raw.size

    def decode(self, out: Array | None = None) -> Array:
        if out is None:
            if self.kind == "F32":
                return self.raw.view(numpy.dtype("<f4")).reshape(self.shape)
            out = numpy.empty(self.shape, numpy.float32)
        blocks.decode(blocks.KINDS[self.kind], self.raw, out)
        return out

    @property
    def runs_as_blocks(self) -> bool:
        return self.ndim == 2 and self.kind != "F32"

    def blocks(self) -> tuple[str, Array] | None:
        return (self.kind, self.raw.reshape(self.shape[0], -1)) if self.ndim == 2 else None

    def __getitem__(self, key: Any) -> Any:
        """Only the rows of a slice are decoded."""
        if not isinstance(key, slice) or key.step not in (None, 1):
            return super().__getitem__(key)
        start, stop, _ = key.indices(self.shape[0])
        count, row = max(stop - start, 0), self.nbytes // self.shape[0]
        raw = self.raw[start * row : (start + count) * row]
        return Blocks(raw, self.kind, (count, *self.shape[1:])).decode()


class Changed(Deferred):
    """`change` of an array, deferred or not, that gives one of `shape`; done after decoding."""

    def __init__(
        self, source: Any, shape: tuple[int, ...], change: Callable[[Array], Array]
    ) -> None:
        self.source, self.shape, self.change = source, shape, change
        self.kind, self.nbytes = getattr(source, "kind", "F32"), source.nbytes

    def decode(self, out: Array | None = None) -> Array:
        changed = self.change(numpy.asarray(self.source, numpy.float32))
        if out is None:
            return changed
        out[...] = changed
        return out

    @property
    def T(self) -> Any:
        return self.source if self.change is numpy.transpose else super().T


class Reordered(Deferred):
    """The rows `order` of a deferred array; its blocks are copied, not decoded."""

    def __init__(self, source: Deferred, order: Array) -> None:
        self.source, self.order = source, order
        self.shape, self.kind, self.nbytes = source.shape, source.kind, source.nbytes

    def decode(self, out: Array | None = None) -> Array:
        return numpy.take(self.source.decode(), self.order, axis=0, out=out)

    @property
    def runs_as_blocks(self) -> bool:
        return self.source.runs_as_blocks

    def blocks(self) -> tuple[str, Array] | None:
        held = self.source.blocks()
        if held is None:
            return None
        kind, raw = held
        moved = raw[self.order]
        forget(raw)
        return kind, moved


def forget(raw: Array) -> None:
    """Let go of the memory of bytes of a file that will hardly be read again, if they are mapped.

    They stay what they are: who reads them still has the system fetch them anew.
    """
    owner: Any = raw
    while isinstance(owner, numpy.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        begin = raw.ctypes.data - numpy.frombuffer(owner, numpy.uint8).ctypes.data
        first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (begin + raw.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            owner.madvise(mmap.MADV_DONTNEED, first, length)


class Joined(Deferred):
    """Arrays of one shape, deferred or not, one after the other along the first axis."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        self.dtype = numpy.result_type(*(part.dtype for part in parts))
        kinds = {kind_of(part) for part in parts}
        self.kind = kinds.pop() if len(kinds) == 1 else "several kinds"
        self.nbytes = sum(part.nbytes for part in parts)

    def decode(self, out: Array | None = None) -> Array:
        return numpy.concatenate([numpy.asarray(part) for part in self.parts], out=out)

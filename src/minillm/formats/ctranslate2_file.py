"""CTranslate2's model.bin, memory-mapped.

Little-endian: u32 version; the name of the architecture; u32 its revision; u32 tensors, each a
name, u8 axes, u32 per axis, u8 kind, u32 size, the data; from version 3 on u32 aliases, each a name
and the name of the tensor it stands for. A string is u16 length, bytes, NUL. Kind is the bytes of
an item and size counts items; from version 4 on kind is a number (DTYPES) and size counts bytes.
Integer weights are q of w = q / scale, the scale being a tensor beside them.
"""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from minillm.formats.deferred import Blocks, Changed
from minillm.quantities import counted

VERSIONS = range(2, 7)
DTYPES = ("<f4", "<i1", "<i2", "<i4", "<f2", "bf16")
BY_SIZE = {4: "<f4", 2: "<i2", 1: "<i1"}  # before version 4
MOST_AXES = 8
SCALE = "_scale"


class Contents(NamedTuple):
    """What model.bin holds: floats are mapped, integers decoded when they are used."""

    version: int
    architecture: str
    revision: int
    arrays: dict[str, Any]


class _Cursor:
    """Takes bytes off a mapped file, checking before every step that they are there."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, 0
        size = path.stat().st_size
        self.raw = numpy.memmap(path, numpy.uint8, "r") if size else numpy.empty(0, numpy.uint8)

    def take(self, count: int, what: str) -> numpy.ndarray:
        left = len(self.raw) - self.place
        if count > left:
            raise self.error(
                f"{what} needs {counted(count, 'byte')}, {left:,} are left; the file is truncated"
            )
        self.place += count
        return self.raw[self.place - count : self.place]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what).tobytes(), "little")

    def string(self, what: str) -> str:
        data = self.take(self.number(2, what), what).tobytes()
        if not data.endswith(b"\0"):
            raise self.error(f"{what} at byte {self.place} has no end, a NUL is needed")
        try:
            return data[:-1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} at byte {self.place} is not UTF-8 ({error})") from None

    def error(self, fact: str) -> ValueError:
        return ValueError(f"{self.path}: {fact}")


def read(path: str | os.PathLike[str]) -> Contents:
    """The content of model.bin.

    ValueError in one line, before anything is allocated, for a damaged file or another version.
    """
    cursor = _Cursor(Path(path))
    version = cursor.number(4, "the version")
    if version not in VERSIONS:
        raise cursor.error(
            f"CTranslate2 version {version}, {VERSIONS[0]} to {VERSIONS[-1]} is needed"
        )
    architecture, revision = cursor.string("the architecture"), cursor.number(4, "the revision")
    arrays: dict[str, Any] = {}
    for place in range(cursor.number(4, "the number of tensors")):
        name = cursor.string(f"the name of tensor {place}")
        if name in arrays:
            raise cursor.error(f"tensor {name!r} is there twice")
        arrays[name] = _tensor(cursor, name, version)
    if version >= 3:
        for place in range(cursor.number(4, "the number of aliases")):
            alias = cursor.string(f"the name of alias {place}")
            name = cursor.string(f"what alias {place} stands for")
            if name not in arrays or alias in arrays:
                raise cursor.error(
                    f"alias {alias!r} of {name!r} cannot be, one of a tensor is needed"
                )
            arrays[alias] = arrays[name]
            if name + SCALE in arrays:
                arrays.setdefault(alias + SCALE, arrays[name + SCALE])
    if cursor.place < len(cursor.raw):
        raise cursor.error(
            f"the last tensor is followed by {counted(len(cursor.raw) - cursor.place, 'byte')}"
        )
    return Contents(version, architecture, revision, _decoded(cursor, arrays))


def _tensor(cursor: _Cursor, name: str, version: int) -> Any:
    axes = cursor.number(1, name)
    if axes > MOST_AXES:
        raise cursor.error(f"tensor {name!r} has {axes} axes, at most {MOST_AXES} are possible")
    shape = tuple(cursor.number(4, name) for _ in range(axes))
    kind, size = cursor.number(1, name), cursor.number(4, name)
    if version < 4:
        dtype = BY_SIZE.get(kind)
        size *= kind
    else:
        dtype = DTYPES[kind] if kind < len(DTYPES) else None
    if dtype is None:
        raise cursor.error(f"tensor {name!r} has items of kind {kind}, which is not known")
    item = numpy.dtype("<u2" if dtype == "bf16" else dtype)
    if size != math.prod(shape) * item.itemsize:
        raise cursor.error(
            f"tensor {name!r} has {counted(size, 'byte')} for shape {shape}, "
            f"{math.prod(shape) * item.itemsize} are needed"
        )
    raw = cursor.take(size, f"tensor {name!r}")
    return Blocks(raw, "BF16", shape) if dtype == "bf16" else raw.view(item).reshape(shape)


def _divided(scale: numpy.ndarray, array: numpy.ndarray) -> numpy.ndarray:
    return array / scale


def _decoded(cursor: _Cursor, arrays: dict[str, Any]) -> dict[str, Any]:
    """Integer weights divided by their scale, one of the tensor or one for each row."""
    decoded: dict[int, Any] = {}  # aliases stay one array
    for name, array in arrays.items():
        scale = arrays.get(name + SCALE)
        if scale is None:
            if array.dtype.kind == "i" and array.ndim > 1:
                raise cursor.error(f"tensor {name!r} holds integers, {name + SCALE!r} is needed")
            decoded[id(array)] = array
        elif id(array) not in decoded:
            fits = scale.dtype.kind == "f" and scale.shape in ((), (1,), array.shape[:1])
            if not fits or not (scale > 0).all():
                raise cursor.error(
                    f"tensor {name + SCALE!r} {scale.shape} cannot scale {name!r} {array.shape}"
                )
            rows = scale.reshape(-1, *[1] * (array.ndim - 1))
            decoded[id(array)] = Changed(array, array.shape, functools.partial(_divided, rows))
    return {n: decoded[id(array)] for n, array in arrays.items() if not n.endswith(SCALE)}

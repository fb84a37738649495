"""GGUF files, version 3: whole-or-nothing writing, one tensor at a time."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy

from minillm.arrays import Array, to_numpy
from minillm.blocks import KINDS
from minillm.formats.block_encoding import ENCODERS, encode
from minillm.formats.deferred import Deferred
from minillm.formats.files import atomic_write
from minillm.formats.gguf import ALIGNMENT, ARRAY, BOOL, DEFAULT_ALIGNMENT, MAGIC, NUMBERS, STRING
from minillm.formats.gguf_strings import Strings

TYPE_OF = {numpy.dtype(dtype): kind for kind, dtype in NUMBERS.items()}
UINT32, INT32, FLOAT32, UINT64, INT64 = 4, 5, 6, 10, 11
ARRAYS = (list, tuple, numpy.ndarray, Strings)


def write(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Mapping[str, tuple[Array | Deferred, str]],
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Write metadata, and tensors as (array, kind), the kind one of block_encoding.ENCODERS.

    int is written as uint32 where it fits, float as float32, lists of int as int32; NumPy values
    and arrays keep their types. `progress` is told how many numbers were written since it was last
    told. ValueError, naming the tensor, where its rows are not whole blocks or its numbers cannot
    be held; nothing is left then.
    """
    if ALIGNMENT in metadata:
        raise ValueError(f"gguf: {ALIGNMENT} cannot be chosen, it is {DEFAULT_ALIGNMENT}")
    entries = [_string(key) + _typed(key, value) for key, value in metadata.items()]
    offset = 0
    for name, (array, kind) in tensors.items():
        taken = _byte_count(name, array.shape, kind)
        entries.append(_info(name, array.shape, kind, offset))
        offset += _padded(taken)
    head = MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(entries)
    with atomic_write(path) as file:
        file.write(head + bytes(-len(head) % DEFAULT_ALIGNMENT))
        for name, (array, kind) in tensors.items():
            numbers = array.decode() if isinstance(array, Deferred) else to_numpy(array)
            written = 0
            try:
                for piece in encode(kind, numbers):
                    written += file.write(piece.view(numpy.uint8).data)
                    progress(len(piece) * KINDS[kind].elements)
            except ValueError as error:
                raise ValueError(f"gguf: {name}: {error}") from error
            file.write(bytes(-written % DEFAULT_ALIGNMENT))


def _padded(count: int) -> int:
    return count + -count % DEFAULT_ALIGNMENT


def _byte_count(name: str, shape: tuple[int, ...], kind: str) -> int:
    """Bytes of a tensor; ValueError for what the format cannot hold."""
    if kind not in ENCODERS:
        raise ValueError(f"gguf: {name} as {kind}, one of {', '.join(ENCODERS)} is needed")
    elements = KINDS[kind].elements
    if not 1 <= len(shape) <= 4 or 0 in shape:
        raise ValueError(f"gguf: {name} has shape {shape}, 1 to 4 sizes from 1 are needed")
    if shape[-1] % elements:
        raise ValueError(
            f"gguf: {name} has rows of {shape[-1]}, {kind} needs multiples of {elements}; "
            "F32, F16 and BF16 hold any"
        )
    return math.prod(shape) // elements * KINDS[kind].block_bytes


def _info(name: str, shape: tuple[int, ...], kind: str, offset: int) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
    return _string(name) + sizes + struct.pack("<IQ", KINDS[kind].id, offset)


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _typed(key: str, value: Any) -> bytes:
    """A value of metadata, its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, ARRAYS):
        return struct.pack("<I", ARRAY) + _array(key, value)
    number = _number(key, value)
    return struct.pack("<I", TYPE_OF[number.dtype]) + number.tobytes()


def _number(key: str, value: Any) -> Array:
    """A 0-d array of a type that the format has."""
    if (
        isinstance(value, numpy.generic | numpy.ndarray)
        and value.dtype.newbyteorder("<") in TYPE_OF
    ):
        return numpy.asarray(value, value.dtype.newbyteorder("<"))
    if type(value) is bool:
        return numpy.asarray(value, NUMBERS[BOOL])
    if type(value) is float:
        return numpy.asarray(value, NUMBERS[FLOAT32])
    if type(value) is int and -(1 << 63) <= value < 1 << 64:
        kind = UINT32 if 0 <= value < 1 << 32 else UINT64 if value >= 0 else INT64
        return numpy.asarray(value, NUMBERS[kind])
    raise TypeError(f"gguf: metadata {key} is {value!r}, GGUF has no type for it")


def _array(key: str, values: Any) -> bytes:
    """Type of the elements, count, elements."""
    if isinstance(values, numpy.ndarray):
        numbers = _number(key, values)
        return struct.pack("<IQ", TYPE_OF[numbers.dtype], numbers.size) + numbers.tobytes()
    head = struct.pack("<Q", len(values))
    if all(isinstance(value, str) for value in values):
        return struct.pack("<I", STRING) + head + b"".join(map(_string, values))
    if all(isinstance(value, ARRAYS) for value in values):
        return struct.pack("<I", ARRAY) + head + b"".join(_array(key, value) for value in values)
    kinds = {type(value) for value in values}
    kind = {bool: BOOL, int: INT32, float: FLOAT32}.get(kinds.pop()) if len(kinds) == 1 else None
    if kind is None or (kind == INT32 and not all(-(1 << 31) <= v < 1 << 31 for v in values)):
        raise TypeError(f"gguf: metadata {key} is a list of mixed kinds, GGUF has no type for it")
    return struct.pack("<I", kind) + head + numpy.asarray(values, NUMBERS[kind]).tobytes()

"""GGUF files, version 2 and 3: memory-mapped reading.

Source: the GGUF specification of ggml (docs/gguf.md); all values are little-endian.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy

from minillm.arrays import Array
from minillm.blocks import KINDS, OTHER_KINDS, Kind
from minillm.formats.deferred import Blocks, Deferred
from minillm.formats.gguf_strings import short_strings
from minillm.quantities import counted

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = "general.alignment"
DEFAULT_ALIGNMENT = 32
LARGEST_RANK = 4
DEEPEST_ARRAY = 4  # arrays of arrays
BOOL, STRING, ARRAY = 7, 8, 9
NUMBERS = {  # types of metadata whose values have one size
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    BOOL: "|b1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
KIND_OF_ID = {kind.id: kind for kind in KINDS.values()}

Metadata = dict[str, Any]


def read(path: str | os.PathLike[str]) -> tuple[Metadata, dict[str, Deferred]]:
    """Metadata and tensors by name; the file stays mapped and a tensor is decoded when asked for.

    Metadata are int, float, bool, str, sequences of str, NumPy arrays of numbers, or lists of such.
    Shapes are given outermost dimension first. ValueError in one line for a file that is damaged,
    truncated, of another version, or that holds a tensor type this file does not know.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 24:
            raise ValueError(f"{path}: not a GGUF file, it has only {counted(size, 'byte')}")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _Reader(path, data).read()


class _Reader:
    """A place in the header of a file, which every read checks and moves."""

    def __init__(self, path: str | os.PathLike[str], data: mmap.mmap) -> None:
        self.path, self.data = path, data
        self.at, self.size = 0, len(data)

    def fail(self, fact: str) -> NoReturn:
        raise ValueError(f"{self.path}: not a readable GGUF file: {fact}")

    def read(self) -> tuple[Metadata, dict[str, Deferred]]:
        tensor_count, entry_count = self.start()
        metadata: Metadata = {}
        for _ in range(entry_count):
            key = self.name("a metadata key")
            if key in metadata:
                self.fail(f"metadata {key!r} occurs twice")
            metadata[key] = self.value(key, self.integer("<I"))
        entries = [self.tensor() for _ in range(tensor_count)]
        return metadata, self.tensors(entries, self.alignment(metadata))

    def start(self) -> tuple[int, int]:
        """Magic and version; the counts of tensors and of metadata."""
        magic = self.take(4, "the magic")
        if magic != MAGIC:
            self.fail(f"it begins with {magic!r}, {MAGIC!r} is needed")
        version = self.integer("<I")
        if version not in VERSIONS:
            if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
                self.fail("it is big-endian, little-endian is needed")
            self.fail(f"it has version {version}, 2 or 3 is needed")
        tensors, entries = self.integer("<Q"), self.integer("<Q")
        self.check_count(tensors, 32, "tensors")
        self.check_count(entries, 13, "metadata entries")
        return tensors, entries

    def check_count(self, count: int, least: int, what: str) -> None:
        """Refuse a count of things of at least `least` bytes that the rest cannot hold."""
        left = self.size - self.at
        if count * least > left:
            self.fail(f"{count:,} {what} are announced, {counted(left, 'byte')} are left")

    def take(self, length: int, what: str) -> bytes:
        if length > self.size - self.at:
            self.fail(
                f"{what} of {counted(length, 'byte')} at {self.at}, the file has {self.size:,}"
            )
        self.at += length
        return self.data[self.at - length : self.at]

    def integer(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout), "a number"))
        return value

    def string(self, what: str) -> str:
        return self.text(self.take(self.integer("<Q"), what), what)

    def text(self, data: bytes, what: str) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8 ({error.reason} at byte {error.start})")

    def name(self, what: str) -> str:
        """A string that errors can show as it is."""
        name = self.string(what)
        if not name.isprintable():
            self.fail(f"{what} is {name!r}, printable characters are needed")
        return name

    def value(self, key: str, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.string(f"metadata {key!r}")
        if kind == ARRAY:
            return self.array(key, depth)
        return self.numbers(key, kind, 1)[0].item()

    def numbers(self, key: str, kind: int, count: int) -> Array:
        if kind not in NUMBERS:
            self.fail(f"metadata {key!r} has type {kind}, 0 to 12 is needed")
        dtype = numpy.dtype(NUMBERS[kind])
        data = self.take(count * dtype.itemsize, f"metadata {key!r}")
        if kind == BOOL:
            return numpy.frombuffer(data, numpy.uint8) != 0
        return numpy.frombuffer(data, dtype)

    def array(self, key: str, depth: int) -> Any:
        kind, count = self.integer("<I"), self.integer("<Q")
        if kind == STRING:
            return self.strings(key, count)
        if kind != ARRAY:
            return self.numbers(key, kind, count)
        if depth == DEEPEST_ARRAY:
            self.fail(f"metadata {key!r} nests arrays more than {DEEPEST_ARRAY} deep")
        self.check_count(count, 12, f"arrays in metadata {key!r}")
        return [self.array(key, depth + 1) for _ in range(count)]

    def strings(self, key: str, count: int) -> Sequence[str]:
        """Vocabularies have 100 000 and more: one pass, without a call for each."""
        self.check_count(count, 8, f"strings in metadata {key!r}")
        short = short_strings(self.data, self.at, count)
        if short is not None:
            strings, self.at = short
            return strings
        data, at, size = self.data, self.at, self.size
        length_at = struct.Struct("<Q").unpack_from
        found = []
        for _ in range(count):
            start = at + 8
            if start > size:
                break
            at = start + length_at(data, at)[0]
            if at > size:
                break
            found.append(data[start:at])
        if len(found) < count:
            self.fail(
                f"string {len(found)} of {count} in metadata {key!r} ends after "
                f"{counted(size, 'byte')}"
            )
        self.at = at
        try:
            return [text.decode("utf-8") for text in found]
        except UnicodeDecodeError:
            return [self.text(text, f"a string in metadata {key!r}") for text in found]

    def tensor(self) -> tuple[str, Kind, tuple[int, ...], int]:
        """Name, kind, shape and offset of the next tensor."""
        name = self.name("the name of a tensor")
        rank = self.integer("<I")
        if not 1 <= rank <= LARGEST_RANK:
            self.fail(f"tensor {name!r} has {rank} dimensions, 1 to {LARGEST_RANK} are needed")
        shape = tuple(self.integer("<Q") for _ in range(rank))[::-1]
        kind_id, offset = self.integer("<I"), self.integer("<Q")
        if kind_id not in KIND_OF_ID:
            known = OTHER_KINDS.get(kind_id, "unknown")
            raise ValueError(
                f"{self.path}: tensor {name!r} has type {kind_id} ({known}), which is not "
                f"supported, one of {', '.join(KINDS)} is needed"
            )
        kind = KIND_OF_ID[kind_id]
        if 0 in shape or math.prod(shape) >= 1 << 63:
            self.fail(f"tensor {name!r} has shape {shape}, sizes from 1 are needed")
        if shape[-1] % kind.elements:
            self.fail(
                f"tensor {name!r} has rows of {shape[-1]}, {kind.name} needs multiples of "
                f"{kind.elements}"
            )
        return name, kind, shape, offset

    def alignment(self, metadata: Metadata) -> int:
        value = metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT)
        if type(value) is not int or value < 1 or value & (value - 1):
            self.fail(f"{ALIGNMENT} is {value!r}, a power of two is needed")
        return value

    def tensors(
        self, entries: list[tuple[str, Kind, tuple[int, ...], int]], alignment: int
    ) -> dict[str, Deferred]:
        """Views of the data, once no tensor leaves the file, its alignment, or another's place."""
        start = self.at + -self.at % alignment
        left = max(self.size - start, 0)
        raw = numpy.frombuffer(self.data, numpy.uint8)
        found: dict[str, Deferred] = {}
        end, before = 0, ""
        for name, kind, shape, offset in sorted(entries, key=lambda entry: entry[3]):
            count = math.prod(shape) // kind.elements * kind.block_bytes
            if offset % alignment:
                self.fail(f"tensor {name!r} lies at {offset}, a multiple of {alignment} is needed")
            if offset + count > left:
                self.fail(
                    f"tensor {name!r} has {counted(count, 'byte')} at {offset}, the file holds "
                    f"{left:,} of data"
                )
            if offset < end:
                self.fail(f"tensors {before!r} and {name!r} overlap at {offset}")
            if name in found:
                self.fail(f"tensor {name!r} occurs twice")
            end, before = offset + count, name
            found[name] = Blocks(raw[start + offset : start + end], kind.name, shape)
        return {name: found[name] for name, *_ in entries}

"""Safetensors files: memory-mapped reading, streamed whole-or-nothing writing, a digest inside."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from minillm.arrays import Array, to_numpy
from minillm.formats.block_encoding import round_bf16
from minillm.formats.deferred import Blocks
from minillm.formats.files import atomic_write
from minillm.quantities import counted

DTYPES: dict[str, numpy.dtype[Any]] = {
    "F64": numpy.dtype("<f8"),
    "F32": numpy.dtype("<f4"),
    "F16": numpy.dtype("<f2"),
    "BF16": numpy.dtype("<u2"),  # NumPy has no bfloat16: these are its words
    "I64": numpy.dtype("<i8"),
    "I32": numpy.dtype("<i4"),
    "I16": numpy.dtype("<i2"),
    "I8": numpy.dtype("i1"),
    "U64": numpy.dtype("<u8"),
    "U32": numpy.dtype("<u4"),
    "U16": numpy.dtype("<u2"),
    "U8": numpy.dtype("u1"),
    "BOOL": numpy.dtype("?"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
FLOATS = {"f64": "F64", "f32": "F32", "f16": "F16", "bf16": "BF16"}
DIGEST = "sha256"
NO_DIGEST = "0" * 64
LARGEST_HEADER = 1 << 24  # bytes, room for the names of 100 000 tensors
HASHED = 1 << 24  # bytes at a time


class Entry(NamedTuple):
    """A tensor as the header describes it; `begin` and `end` are places in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header(path: str | os.PathLike[str]) -> tuple[dict[str, Entry], dict[str, str]]:
    """What a file holds, and its metadata; nothing but the header is read.

    ValueError in one line for a file that is damaged, truncated or of an unknown dtype.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        length = _header_length(path)
        with safe_open(path, "numpy") as checked:  # sizes and offsets are verified here
            checked.keys()
        with open(path, "rb") as file:
            file.seek(8)
            content = json.loads(file.read(length), object_pairs_hook=distinct)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    metadata = content.pop("__metadata__", None) or {}
    entries = {}
    for name, entry in content.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} has dtype {entry['dtype']}, which is not supported")
        begin, end = entry["data_offsets"]
        place = 8 + length
        entries[name] = Entry(entry["dtype"], tuple(entry["shape"]), place + begin, place + end)
    return entries, metadata


def _header_length(path: Path) -> int:
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > max(0, size - 8):
        raise ValueError(f"a header of {counted(length, 'byte')} in a file of {size:,}")
    if length > LARGEST_HEADER:
        raise ValueError(
            f"a header of {counted(length, 'byte')}, at most {LARGEST_HEADER:,} are accepted"
        )
    return length


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError if a name occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice!r} occurs twice")
    return found


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Arrays by name, memory-mapped and read-only, and the metadata. Errors as in `header`.

    bfloat16 comes as formats.deferred.Blocks, float32 once it is asked for.
    """
    entries, metadata = header(path)
    return _mapped(path, entries), metadata


def _mapped(path: str | os.PathLike[str], entries: dict[str, Entry]) -> dict[str, Any]:
    if not entries:
        return {}
    raw = numpy.asarray(numpy.memmap(path, numpy.uint8, "r"))
    arrays: dict[str, Any] = {}
    for name, entry in entries.items():
        data = raw[entry.begin : entry.end]
        if entry.dtype == "BF16":
            arrays[name] = Blocks(data, "BF16", entry.shape)
        else:
            arrays[name] = data.view(DTYPES[entry.dtype]).reshape(entry.shape)
    return arrays


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    dtype: str | None = None,
) -> None:
    """Write arrays by name, and metadata to which a sha256 of all content is added.

    Floating-point arrays are written as `dtype`, "f64", "f32", "f16" or "bf16" (rounded to nearest,
    ties to even), or as they are. ValueError for what the format, or the dtype, cannot hold.
    """
    kinds = {name: _kind(path, name, arrays[name], dtype) for name in sorted(arrays)}
    metadata = dict(metadata or {}) | {DIGEST: NO_DIGEST}
    content: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for name, kind in kinds.items():
        size = size_of(path, name, arrays[name], dtype)
        content[name] = {
            "dtype": kind,
            "shape": list(arrays[name].shape),
            "data_offsets": [start, start + size],
        }
        start += size
    encoded = json.dumps(content, separators=(",", ":")).encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)
    shapes = {name: arrays[name].shape for name in kinds}
    total = _digest_of(kinds, shapes, metadata)
    with atomic_write(path) as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name, kind in kinds.items():
            data = _bytes(path, name, arrays[name], kind)
            total.update(data)
            file.write(data)
        file.seek(8 + encoded.index(f'"{DIGEST}":"{NO_DIGEST}"'.encode()) + len(DIGEST) + 4)
        file.write(total.hexdigest().encode("ascii"))


def _kind(path: Any, name: str, array: Array, dtype: str | None) -> str:
    """The dtype that an array gets in the file."""
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"{path}: dtype {dtype!r}, one of {', '.join(FLOATS)} is needed")
    if array.dtype not in NAMES:
        raise ValueError(f"{path}: {name} has dtype {array.dtype}, which cannot be written")
    return FLOATS[dtype] if dtype and array.dtype.kind == "f" else NAMES[array.dtype]


def size_of(path: Any, name: str, array: Array, dtype: str | None) -> int:
    """Bytes that `write` makes of an array."""
    return array.size * DTYPES[_kind(path, name, array, dtype)].itemsize


def rounded(array: Array, dtype: str) -> numpy.ndarray:
    """What an array of floating-point numbers is, in its own dtype, after being written."""
    host = to_numpy(array)
    if dtype == "bf16":
        words = round_bf16(host).reshape(-1).view(numpy.uint8)
        return Blocks(words, "BF16", host.shape).decode().astype(host.dtype)
    return host.astype(DTYPES[FLOATS[dtype]]).astype(host.dtype)


def _bytes(path: Any, name: str, array: Array, kind: str) -> Any:
    """The array as it lies in the file."""
    host = to_numpy(array)
    dtype = DTYPES["F32" if kind == "BF16" else kind]
    if host.dtype != dtype:
        with numpy.errstate(over="ignore"):
            wide, host = host, host.astype(dtype)
        if not numpy.array_equal(numpy.isinf(host), numpy.isinf(wide)):
            raise ValueError(
                f"{path}: {name} has values up to {numpy.abs(wide).max():.4g}, which "
                f"{kind.lower()} cannot hold, {'bf16 or f32' if kind == 'F16' else 'f64'} is needed"
            )
    if kind == "BF16":
        host = round_bf16(host)
    return numpy.ascontiguousarray(host).reshape(-1).view(numpy.uint8).data


def _digest_of(kinds: Mapping[str, str], shapes: Mapping[str, Any], metadata: Any) -> Any:
    """sha256 that has seen dtypes, shapes and metadata, to be fed the bytes of arrays by name."""
    described = [
        [name, "bf16" if kinds[name] == "BF16" else DTYPES[kinds[name]].str, list(shapes[name])]
        for name in sorted(kinds)
    ]
    notes = sorted((key, value) for key, value in metadata.items() if key != DIGEST)
    return hashlib.sha256(json.dumps([described, notes]).encode("utf-8"))


def _pieces(data: Array) -> Iterator[Any]:
    for start in range(0, len(data), HASHED):
        yield data[start : start + HASHED].data


def verify(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """`read`, and ValueError unless the data have the digest that was written with them."""
    entries, metadata = header(path)
    if DIGEST not in metadata:
        raise ValueError(f"{path}: holds no digest, a file written by minillm is needed")
    kinds = {name: entry.dtype for name, entry in entries.items()}
    total = _digest_of(kinds, {name: entry.shape for name, entry in entries.items()}, metadata)
    arrays = _mapped(path, entries)
    for name in sorted(arrays):
        array = arrays[name]
        raw = array.raw if isinstance(array, Blocks) else array.reshape(-1).view(numpy.uint8)
        for piece in _pieces(raw):
            total.update(piece)
    if metadata[DIGEST] != total.hexdigest():
        raise ValueError(f"{path}: damaged, its content has not the digest it was written with")
    return arrays, metadata

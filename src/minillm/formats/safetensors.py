"""Safetensors files: memory-mapped reading, streamed whole-or-nothing writing, a digest inside."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from minillm.arrays import Array, to_numpy
from minillm.formats.files import atomic_write

DTYPES = {
    "F64": numpy.dtype("<f8"),
    "F32": numpy.dtype("<f4"),
    "F16": numpy.dtype("<f2"),
    "BF16": numpy.dtype("<u2"),  # NumPy has no bfloat16: read as words, see `widen_bf16`
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
DIGEST = "sha256"


def widen_bf16(words: numpy.ndarray) -> numpy.ndarray:
    """bfloat16 words (uint16) as float32: the upper half of each float."""
    return (words.astype(numpy.uint32) << 16).view(numpy.float32)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, numpy.ndarray], dict[str, str]]:
    """Arrays by name, memory-mapped and read-only (bfloat16 widened to float32), and the metadata.

    ValueError in one line for a file that is damaged, truncated or of an unknown dtype.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, "numpy") as checked:  # sizes and offsets are verified here
            checked.keys()
    except (SafetensorError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    start = 8 + length
    metadata = header.pop("__metadata__", None) or {}
    if not header:
        return {}, metadata
    raw = numpy.memmap(path, numpy.uint8, "r")
    arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} has dtype {entry['dtype']}, which is not supported")
        begin, end = entry["data_offsets"]
        dtype: Any = DTYPES[entry["dtype"]]
        array = numpy.asarray(raw[start + begin : start + end]).view(dtype)
        if entry["dtype"] == "BF16":
            array = widen_bf16(array)
        arrays[name] = array.reshape(entry["shape"])
    return arrays, metadata


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays by name, and metadata to which a sha256 of all content is added.

    ValueError for a dtype the format does not have.
    """
    host = {
        name: numpy.ascontiguousarray(to_numpy(arrays[name])).reshape(arrays[name].shape)
        for name in sorted(arrays)
    }
    for name, array in host.items():
        if array.dtype not in NAMES:
            raise ValueError(f"{path}: {name} has dtype {array.dtype}, which cannot be written")
    metadata = dict(metadata or {})
    header: dict[str, object] = {"__metadata__": metadata | {DIGEST: digest(host, metadata)}}
    start = 0
    for name, array in host.items():
        header[name] = {
            "dtype": NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, start + array.nbytes],
        }
        start += array.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)
    with atomic_write(path) as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for array in host.values():
            file.write(array.reshape(-1).view(numpy.uint8).data)


def digest(arrays: Mapping[str, numpy.ndarray], metadata: Mapping[str, str]) -> str:
    """sha256 over names, dtypes, shapes, metadata, and the bytes of the arrays by name."""
    kinds = [[name, arrays[name].dtype.str, arrays[name].shape] for name in sorted(arrays)]
    notes = sorted((key, value) for key, value in metadata.items() if key != DIGEST)
    total = hashlib.sha256(json.dumps([kinds, notes]).encode("utf-8"))
    for name in sorted(arrays):
        total.update(numpy.ascontiguousarray(arrays[name]).reshape(-1).view(numpy.uint8).data)
    return total.hexdigest()


def verify(path: str | os.PathLike[str]) -> tuple[dict[str, numpy.ndarray], dict[str, str]]:
    """`read`, and ValueError unless the data have the digest that was written with them."""
    arrays, metadata = read(path)
    if DIGEST not in metadata:
        raise ValueError(f"{path}: holds no digest, a file written by minillm is needed")
    if metadata[DIGEST] != digest(arrays, metadata):
        raise ValueError(f"{path}: damaged, its content has not the digest it was written with")
    return arrays, metadata

"""Beginnings of texts that were read once: kept for texts that begin alike, and in files."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy

from minillm.arrays import Array, beside, to_numpy
from minillm.formats import safetensors
from minillm.generation.reading import Reader, Reading
from minillm.tensor import of

FORMAT = "minillm reading 1"


class Prefixes:
    """Readings by their ids, at most `most` bytes of them; those not used for longest go first.

    Only whole chunks count, `chunk` ids each from the beginning: texts are read in the same chunks
    with and without a prefix, so that all their bits are the same. What is given out is a copy.
    """

    def __init__(self, most: int, chunk: int) -> None:
        self.most, self.chunk = most, chunk
        self._kept: OrderedDict[tuple[Hashable, tuple[int, ...]], Reading] = OrderedDict()

    @property
    def nbytes(self) -> int:
        return sum(reading.nbytes for reading in list(self._kept.values()))

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, kind: Hashable, ids: Sequence[int]) -> Reading | None:
        """A copy of the longest known beginning of `ids`, which leaves at least one to be read.

        `kind` is how it was read: only readings of the same kind count. A cache with windows does
        not go back to every beginning; another reading may hold it then.
        """
        best, most = None, 0
        for key, reading in self._kept.items():
            if key[0] == kind:
                same = min(common(key[1], ids), len(ids) - 1) // self.chunk * self.chunk
                if same > most and reading.cache.reaches(same):
                    best, most = key, same
        if best is None:
            return None
        self._kept.move_to_end(best)
        twin = self._kept[best].fork()
        twin.rewind(most)
        return twin

    def keep(self, kind: Hashable, reading: Reading) -> None:
        """Remember a copy of a reading whose length is a number of whole chunks."""
        key = kind, tuple(reading.ids)
        if not reading.length or reading.length % self.chunk or reading.nbytes > self.most:
            return
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        for other in list(self._kept):
            if other[0] == kind and self._serves(reading, self._kept[other]):
                del self._kept[other]
        self._kept[key] = reading.fork()
        while self.nbytes > self.most:
            self._kept.popitem(last=False)

    def _serves(self, reading: Reading, other: Reading) -> bool:
        """Whether `other` is a beginning of `reading`, which goes back wherever `other` does."""
        return common(other.ids, reading.ids) == other.length and all(
            reading.cache.reaches(length)
            for length in range(self.chunk, other.length + 1, self.chunk)
            if other.cache.reaches(length)
        )

    def clear(self) -> None:
        self._kept.clear()


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids are the same at the beginning of both."""
    length = min(len(a), len(b))
    differ = numpy.flatnonzero(numpy.asarray(a[:length]) != numpy.asarray(b[:length]))
    return int(differ[0]) if len(differ) else length


def fingerprint(model: Any) -> str:
    """SHA-256, in hexadecimal, of a model's configuration and weights as they are held."""
    total = hashlib.sha256(repr(model.config).encode("utf-8"))
    for name, parameter in model.named_parameters():
        held = getattr(parameter, "held", None)
        array = parameter.numpy() if held is None else held.raw
        form = array.dtype.str if held is None else held.kind
        total.update(f"{name} {form} {parameter.shape}".encode())
        total.update(numpy.ascontiguousarray(array).reshape(-1).view(numpy.uint8).data)
    return total.hexdigest()


def save_reading(path: str | os.PathLike[str], reading: Reading, reader: Reader) -> None:
    """Write what was read, with the fingerprint of the model, to a safetensors file.

    The file is written aside and renamed. It tells the reader's chunk, on which bits depend.
    ValueError for a reading without a cache, or of no ids.
    """
    if reading.cache is None:
        raise ValueError("save: a reading without a cache, use_cache=True is needed")
    if not reading.length:
        raise ValueError("save: a reading of 0 tokens, at least 1 is needed")
    notes = {
        "format": FORMAT,
        "model": fingerprint(reader.model),
        "cache_dtype": reader.cache_dtype,
        "chunk": str(reader.chunk),
    }
    arrays = {name: to_numpy(array) for name, array in _arrays(reading).items()}
    safetensors.write(path, arrays, notes)


def load_reading(path: str | os.PathLike[str], reader: Reader) -> Reading:
    """What `save_reading` wrote. ValueError, in one line, for a file that is damaged or another
    kind, of another model or chunk, or of a cache of another dtype or size."""
    arrays, notes = safetensors.verify(path)
    if notes.get("format") != FORMAT:
        raise ValueError(f"{path}: no reading, a file of save_reading is needed")
    if notes.get("model") != fingerprint(reader.model):
        raise ValueError(f"{path}: read by another model, the one that read it is needed")
    if notes.get("cache_dtype") != reader.cache_dtype or not reader.use_cache:
        kept = reader.cache_dtype if reader.use_cache else "no"
        raise ValueError(
            f"{path}: holds a {notes.get('cache_dtype')} cache, this reader keeps {kept} cache"
        )
    if notes.get("chunk") != str(reader.chunk):
        read = notes.get("chunk", "an unknown size")
        raise ValueError(f"{path}: read in chunks of {read}, this reader's are of {reader.chunk}")
    arrays = _beside_the_model(path, arrays, reader)
    reading = Reading(reader.new_cache())
    reading.ids = [int(id) for id in arrays["ids"]]
    if "memory" in arrays:
        reading.memory = of(arrays["memory"])
    parts = {name[6:]: array for name, array in arrays.items() if name.startswith("cache.")}
    try:
        reading.cache.from_arrays(parts, reading.length)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return reading


def _arrays(reading: Reading) -> dict[str, Array]:
    """What a reading is, by name."""
    arrays = {f"cache.{name}": array for name, array in reading.cache.to_arrays().items()}
    arrays["ids"] = numpy.asarray(reading.ids, numpy.int64)
    if reading.memory is not None:
        arrays["memory"] = reading.memory.data
    return arrays


def _beside_the_model(
    path: str | os.PathLike[str], arrays: dict[str, Any], reader: Reader
) -> dict[str, Array]:
    """The arrays where those lie that the model makes of one id.

    ValueError unless names, dtypes and sizes are the same.
    """
    one = reader.begin([0] if reader.kind == "encoder-decoder" else None)
    reader.read([(one, [0])])
    needed = _arrays(one)
    for name in sorted(arrays.keys() | needed.keys()):
        found, right = _form(name, arrays.get(name)), _form(name, needed.get(name))
        if found != right:
            raise ValueError(f"{path}: {name} is {found}, {right} is needed")
    return {name: beside(numpy.array(array), needed[name]) for name, array in arrays.items()}


def _form(name: str, array: Any) -> str:
    """The dtype and the shape, T in place of the number of positions."""
    if array is None:
        return "nothing"
    axis = {"ids": 0, "memory": 1}.get(name, 2)
    sizes = ("T" if place == axis else str(size) for place, size in enumerate(array.shape))
    return f"{array.dtype} ({', '.join(sizes)})"

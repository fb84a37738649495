"""Beginnings of texts that were read once: kept for texts that begin alike, and in files."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy

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
        return sum(reading.nbytes for reading in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, kind: Hashable, ids: Sequence[int]) -> Reading | None:
        """A copy of the longest known beginning of `ids`, which leaves at least one to be read.

        `kind` is how it was read: only readings of the same kind count.
        """
        best, most = None, 0
        for key in self._kept:
            if key[0] == kind:
                same = min(common(key[1], ids), len(ids) - 1) // self.chunk * self.chunk
                if same > most:
                    best, most = key, same
        if best is None:
            return None
        self._kept.move_to_end(best)
        twin = self._kept[best].fork()
        try:
            twin.rewind(most)
        except RuntimeError:  # layers with a window, which have forgotten what they would need
            return None
        return twin

    def keep(self, kind: Hashable, reading: Reading) -> None:
        """Remember a copy of a reading whose length is a number of whole chunks."""
        key = kind, tuple(reading.ids)
        if not reading.length or reading.length % self.chunk or reading.nbytes > self.most:
            return
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        for other in list(self._kept):  # what is a beginning of this one is in it
            if other[0] == kind and common(other[1], key[1]) == len(other[1]):
                del self._kept[other]
        self._kept[key] = reading.fork()
        while self.nbytes > self.most:
            self._kept.popitem(last=False)

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

    The file is written aside and renamed. ValueError for a reading without a cache.
    """
    if reading.cache is None:
        raise ValueError("save: a reading without a cache, use_cache=True is needed")
    arrays = {f"cache.{name}": array for name, array in reading.cache.to_arrays().items()}
    arrays["ids"] = numpy.asarray(reading.ids, numpy.int64)
    if reading.memory is not None:
        arrays["memory"] = reading.memory.numpy()
    notes = {
        "format": FORMAT,
        "model": fingerprint(reader.model),
        "cache_dtype": reader.cache_dtype,
    }
    safetensors.write(path, arrays, notes)


def load_reading(path: str | os.PathLike[str], reader: Reader) -> Reading:
    """What `save_reading` wrote. ValueError, in one line, for a file that is damaged or another
    kind, of another model, or of a cache of another dtype."""
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
    reading = Reading(reader.new_cache())
    reading.ids = [int(id) for id in arrays["ids"]]
    if "memory" in arrays:
        reading.memory = of(numpy.array(arrays["memory"]))
    parts = {name[6:]: array for name, array in arrays.items() if name.startswith("cache.")}
    reading.cache.from_arrays(parts, reading.length)
    return reading

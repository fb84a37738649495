"""A part of the documents, cleaned and measured: worked out in any process, kept in a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ...formats.files import atomic_write
from . import minhash, quality
from .cleaning import clean
from .measures import Measures
from .options import Options
from .personal import Hit, scrub
from .sections import Part, Section

_BLOCK_CHARACTERS = 1 << 18  # measured at once: arrays that stay in the cache
COLUMNS = {  # of the numbers that are kept of each section
    "document": "<i8",
    "source": "<i4",
    "hash": "<u8",
    "characters": "<i8",
    "bytes": "<i8",
    "lines": "<i8",
    "words": "<i8",
    "language": "u1",
    "broken": "<u2",
}


@dataclass(frozen=True)
class CleanPart:
    """The file of a part.

    `table` holds COLUMNS, (n,) each; `sketches` (n, 128) and (n, 21); `facts` what was counted;
    `names` of the sections; `hits` [section, kind, line, column] of personal data, both from 1.
    """

    path: Path

    def read(self, *names: str) -> list[Any]:
        """Arrays by name; those of facts, names and hits as what JSON holds. ValueError if damaged.

        The checksums of what is read are verified.
        """
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                found = [arrays[name] for name in names]
            return [
                json.loads(array.tobytes()) if name in _JSON else array
                for name, array in zip(names, found)
            ]
        except (KeyError, ValueError, BadZipFile, EOFError) as error:
            raise ValueError(
                f"prepare: {self.path} is damaged ({error}); delete it and run the same command "
                "again"
            ) from error

    def texts(self, places: np.ndarray) -> Iterator[str]:
        """The kept texts of some sections."""
        data, ends = self.read("text", "ends")
        for at in places.tolist():
            start = int(ends[at - 1]) if at else 0
            yield data[start : int(ends[at])].tobytes().decode("utf-8")


_JSON = ("facts", "names", "hits")


@dataclass(frozen=True)
class Cleaning:
    """The work on one part; pickled, for it is done in other processes too."""

    folder: Path
    options: Options

    def file_of(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.npz"

    def has(self, part: Part) -> bool:
        """Whether the file of the part is there; RuntimeError if it is that of other texts."""
        path = self.file_of(part.number)
        if not path.exists():
            return False
        if CleanPart(path).read("digest")[0].tobytes() != part.digest:
            raise RuntimeError(
                f"prepare: the text is not what it was when {path.parent} was begun (part "
                f"{part.number}), the same is needed to go on; delete {path.parent}, or choose "
                "another --out"
            )
        return True

    def __call__(self, part: Part) -> None:
        """Clean, scrub and measure the part and write its file."""
        with atomic_write(self.file_of(part.number)) as file:
            np.savez(file, **self.worked_out(part))  # type: ignore[arg-type]

    @staticmethod
    def content(arrays: Mapping[str, np.ndarray], name: str) -> Any:
        """The facts, names or hits among the arrays of a part."""
        return json.loads(arrays[name].tobytes())

    def worked_out(self, part: Part) -> dict[str, np.ndarray]:
        """What the file of a part holds, by name."""
        options, counts = self.options, Counter[str]()
        hits: list[list[Any]] = []
        texts = []
        for place, section in enumerate(part.sections):
            text = clean(section.text, options.normalize, options.drop_boilerplate, counts)
            kept, found = scrub(text) if options.scrub_pii else (text, [])
            hits += [[place, *_position(hit, section, text)] for hit in found]
            texts.append("" if kept.isspace() else kept)
        data = [text.encode("utf-8") for text in texts]
        table, values, bands = _measured(texts, options)
        table |= {
            "document": np.array([section.document for section in part.sections]),
            "source": np.array([section.source for section in part.sections]),
            "hash": np.array([_hash(text) for text in data], np.uint64),
            "characters": np.array([len(text) for text in texts]),
            "bytes": np.array([len(text) for text in data]),
            "lines": np.array([_lines(text) for text in texts]),
        }
        table = {name: table[name].astype(kind) for name, kind in COLUMNS.items()}
        facts = {"counts": counts, "alphabet": _alphabet(texts)}
        return table | {
            "digest": np.frombuffer(part.digest, np.uint8),
            "text": np.frombuffer(b"".join(data), np.uint8),
            "ends": np.cumsum(table["bytes"]),
            "values": values,
            "bands": bands,
            "facts": _json(facts),
            "names": _json([section.name for section in part.sections]),
            "hits": _json(hits),
        }


def _position(hit: Hit, section: Section, text: str) -> tuple[str, int, int]:
    before = text.rfind("\n", 0, hit.start) + 1
    line = section.line + text.count("\n", 0, hit.start) + 1
    return hit.kind, line, hit.start - before + 1


def _measured(
    texts: list[str], options: Options
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Words, languages and broken rules of texts, and their sketches."""
    tables, found = [], []
    for block in _blocks(texts):
        measures = Measures(block)
        ruled = options.min_quality > 0
        tables.append(
            (
                measures.words.counts,
                measures.languages,
                quality.broken(measures) if ruled else np.zeros(len(block), np.uint16),
            )
        )
        found.append(minhash.sketches(measures))
    columns = map(np.concatenate, zip(*tables))
    table = dict(zip(("words", "language", "broken"), columns))
    return (
        table,
        np.concatenate([sketches.values for sketches in found]),
        np.concatenate([sketches.bands for sketches in found]),
    )


def _blocks(texts: list[str]) -> Iterator[list[str]]:
    block: list[str] = []
    length = 0
    for text in texts:
        block.append(text)
        length += len(text)
        if length >= _BLOCK_CHARACTERS:
            yield block
            block, length = [], 0
    if block:
        yield block


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _lines(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n") and bool(text))


def _alphabet(texts: list[str]) -> str:
    """The different characters, in order."""
    return "".join(sorted(set().union(*map(set, texts))))


def _json(content: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(content, ensure_ascii=False).encode("utf-8"), np.uint8)

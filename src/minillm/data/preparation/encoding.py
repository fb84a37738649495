"""Kept documents to token ids, some at a time, in any process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...formats.files import atomic_write
from ...tokenizers import Tokenizer, load
from ...tokenizers.tokenizer import TOKENIZER_FILE
from ..prepare import encoded
from ..tokens import TokenFile, TokenWriter
from .parts import CleanPart
from .sections import PART_CHARACTERS
from .selection import KEPT, Catalogue, Selection

Place = tuple[int, int]  # part, and section in it
_GAP = re.compile(r"\S\s")


@dataclass(frozen=True)
class Stretch:
    """A document, or a run of sections of a long one.

    `before` is the section in front of a run that does not begin its document; `last` says whether
    it ends there.
    """

    document: int
    sections: list[Place]
    before: Place | None = None
    last: bool = True


@dataclass
class Unit:
    """What is encoded at once."""

    number: int
    stretches: list[Stretch] = field(default_factory=list)
    characters: int = 0


def units(
    catalogue: Catalogue, selection: Selection, divisible: Callable[[Place], bool]
) -> Iterator[Unit]:
    """All kept documents, in units of about as many characters as a part has.

    A longer document is divided where `divisible` says that the section before allows it.
    """
    unit = Unit(0)
    for stretch, characters in _stretches(catalogue, selection, divisible):
        unit.stretches.append(stretch)
        unit.characters += characters
        if unit.characters >= PART_CHARACTERS:
            yield unit
            unit = Unit(unit.number + 1)
    if unit.stretches:
        yield unit


def _stretches(
    catalogue: Catalogue, selection: Selection, divisible: Callable[[Place], bool]
) -> Iterator[tuple[Stretch, int]]:
    kept = np.flatnonzero(selection.reasons == KEPT)
    ends = [*np.searchsorted(kept, selection.firsts[1:]).tolist(), len(kept)]
    part = np.searchsorted(catalogue.starts, kept, side="right") - 1
    places = list(zip(part.tolist(), (kept - catalogue.starts[part]).tolist()))
    characters = catalogue["characters"][kept].tolist()
    begin = 0
    for document, end in enumerate(ends):
        start, length = begin, 0
        for at in range(begin, end):
            length += characters[at]
            last = at + 1 == end
            if last or (length >= PART_CHARACTERS and divisible(places[at])):
                before = places[start - 1] if start > begin else None
                yield Stretch(document, places[start : at + 1], before, last), length
                start, length = at + 1, 0
        begin = end


@dataclass(frozen=True)
class Encoding:
    """The work on one unit; `tokenizer` is the folder of one."""

    folder: Path
    tokenizer: Path
    parts: Sequence[Path]

    def file_of(self, number: int) -> Path:
        return self.folder / f"tokens-{number:05d}.bin"

    def __call__(self, unit: Unit) -> tuple[Path, int]:
        """Encode the unit and write its files, unless they are there; the file and characters.

        Each document ends with the tokenizer's end token, or separator, if it has one.
        """
        path = self.file_of(unit.number)
        if not path.exists():
            tokenizer = _loaded(self.tokenizer)
            lengths = []
            with TokenWriter(path, tokenizer.vocab_size, tokenizer.fingerprint) as writer:
                for stretch in unit.stretches:
                    before = writer.count
                    for ids, _ in encoded(tokenizer, self._pieces(tokenizer, stretch)):
                        writer.write(ids)
                    if stretch.last and tokenizer.end_id is not None:
                        writer.write(np.array([tokenizer.end_id]))
                    lengths.append(writer.count - before)
                documents = np.array([stretch.document for stretch in unit.stretches])
                with atomic_write(path.with_suffix(".npy")) as file:
                    np.save(file, np.stack((documents, np.array(lengths))))
        return path, unit.characters

    def divisible(self, place: Place) -> bool:
        """Whether a long document may be divided where the tokenizer cuts this section of it.

        That place is safe if the section has a gap before it, where a pre-token begins whatever
        stands in front: the tokenizer looks back no further.
        """
        text = self._text(place)
        return _GAP.search(text, 0, _loaded(self.tokenizer).cut(text)) is not None

    def _pieces(self, tokenizer: Tokenizer, stretch: Stretch) -> Iterator[str]:
        if stretch.before is not None:
            text = self._text(stretch.before)
            yield text[tokenizer.cut(text) :]
        for place in stretch.sections[:-1]:
            yield self._text(place)
        text = self._text(stretch.sections[-1])
        yield text if stretch.last else text[: tokenizer.cut(text)]

    def _text(self, place: Place) -> str:
        data, ends = _data(self.parts[place[0]])
        start = int(ends[place[1] - 1]) if place[1] else 0
        return data[start : int(ends[place[1]])].tobytes().decode("utf-8")


def read_unit(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ids of a unit, and of each stretch in it the document and the number of ids."""
    documents, lengths = np.load(path.with_suffix(".npy"), allow_pickle=False)
    return TokenFile.open(path, verify=True).ids, documents, lengths


def _loaded(folder: Path) -> Tokenizer:
    return _tokenizer(folder, _stamp(folder / TOKENIZER_FILE))


def _data(path: Path) -> tuple[np.ndarray, np.ndarray]:
    return _arrays(path, _stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    """What tells a file from another that had its name before."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


@lru_cache(1)
def _tokenizer(folder: Path, stamp: tuple[int, int]) -> Tokenizer:
    return load(folder)


@lru_cache(2)
def _arrays(path: Path, stamp: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    data, ends = CleanPart(path).read("text", "ends")
    return data, ends

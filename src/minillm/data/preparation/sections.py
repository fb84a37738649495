"""Documents as they come out of files, in sections that fit into memory, in parts to work on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from ..reading import Reader, Watch
from ..sources import TEXT, Source
from ..text import Repairs

SECTION_CHARACTERS = 1 << 20
PART_CHARACTERS = 1 << 22
# Before these nothing is composed with what stands in front, whatever the form of normalisation.
_CUTTABLE = re.compile("(?s:.+)(?=[\x00-\x7f\u3000-\u303f\u3400-\u9fff])")


@dataclass(frozen=True)
class Section:
    """A document, or as much of a long one as is judged at once.

    `document` counts from 0 over all sources, `line` the lines of the document before the section.
    """

    document: int
    source: int
    name: str
    line: int
    text: str


@dataclass
class Part:
    """Sections to be worked on at once, and a digest of what they hold."""

    number: int
    sections: list[Section] = field(default_factory=list)
    digest: bytes = b""


def sections(
    sources: Sequence[Source],
    reader: Reader,
    repairs: Repairs,
    read: Callable[[int], None] = lambda size: None,
) -> Iterator[Section]:
    """The sections of all documents, in order; `read` is told of the bytes as they are read.

    A document of more than 1,048,576 characters is cut behind its line ends, or in a line of such
    a length where no character can be changed by the one before it.
    """
    document = 0
    for place, source in enumerate(sources):
        if source.kind == TEXT:
            found: Iterable[tuple[str, Iterable[str]]] = [
                (source.name, reader.text(source, Watch(read), repairs))
            ]
        else:
            rows = reader.documents(source, Watch(read), repairs)
            found = ((name, (text,)) for name, text in rows)
        for name, pieces in found:
            line = 0
            for text in _cut(pieces):
                yield Section(document, place, name, line, text)
                line += text.count("\n")
            document += 1


def _cut(pieces: Iterable[str]) -> Iterator[str]:
    """The same text, cut at safe places; what holds none is held until there is one."""
    held: list[str] = []
    length, wanted = 0, SECTION_CHARACTERS
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length < wanted:
            continue
        text = "".join(held)
        start = 0
        while len(text) - start >= SECTION_CHARACTERS:
            end = _safe_end(text, start, start + SECTION_CHARACTERS)
            if not end:
                break
            yield text[start:end]
            start = end
        held = [text[start:]]
        length = len(held[0])
        wanted = SECTION_CHARACTERS if length < SECTION_CHARACTERS else 2 * length
    if length:
        yield "".join(held)


def _safe_end(text: str, start: int, end: int) -> int:
    """The last place up to `end` where the text may be cut; 0 if there is none after `start`."""
    line_end = text.rfind("\n", start, end)
    if line_end >= start:
        return line_end + 1
    found = _CUTTABLE.match(text, start, end)
    return found.end() if found else 0


def parts(found: Iterable[Section]) -> Iterator[Part]:
    """The sections in parts of 4,194,304 characters, or a little more."""
    part, length, digest = Part(0), 0, blake2b(digest_size=32)
    for section in found:
        part.sections.append(section)
        length += len(section.text)
        digest.update(f"{section.document} {len(section.text)} {section.name}\n".encode())
        digest.update(section.text.encode("utf-8"))
        if length >= PART_CHARACTERS:
            part.digest = digest.digest()
            yield part
            part, length, digest = Part(part.number + 1), 0, blake2b(digest_size=32)
    if part.sections:
        part.digest = digest.digest()
        yield part

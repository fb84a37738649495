"""What one pass over a corpus finds out."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from .lines import LineReader, Lines, SeenLines, blocks_of, ended
from .sources import TEXT, Sources
from .text import Repairs

REPEATED_LINE_INK = 10
_LINES_AT_ONCE = 1 << 16
_KEPT_CONTROLS = "\t\n\r"
_LONG_LINE = 100_000
_NEWLINE = 10


@dataclass
class Facts:
    """What is in a corpus, and what reading changed or passed over.

    `bytes` counts unpacked files, `newlines` the CR and CRLF made LF. `duplicate_share` is the
    share of the characters (line ends aside) in lines of at least 10 non-space characters that
    came before; the first 2,097,152 distinct lines are remembered (16 MB), and
    `duplicates_bounded` says that there may be more, so that the true share may be larger.
    """

    files: int = 0
    bytes: int = 0
    encoding: str = "utf-8"
    boms: int = 0
    newlines: int = 0
    replacements: int = 0
    bad_rows: int = 0
    first_bad_row: str = ""
    characters: int = 0
    character_counts: Counter[str] = field(default_factory=Counter)
    documents: int = 0
    empty_documents: int = 0
    lines: int = 0
    longest_line: int = 0
    duplicate_share: float = 0.0
    duplicates_bounded: bool = False
    control_characters: int = 0
    sources: Sources = field(default_factory=Sources)

    @property
    def distinct_characters(self) -> int:
        """How many different characters there are."""
        return len(self.character_counts)

    def lines_for_people(self) -> list[str]:
        """The facts in words, one finding a line; what did not happen is not mentioned."""
        found = self.sources
        first = (
            f"{_count(self.files, 'file')}, {self.bytes:,} bytes of {self.encoding}: "
            f"{_count(self.documents, 'document')}, {_count(self.lines, 'line')}, "
            f"{_count(self.characters, 'character')} ({self.distinct_characters:,} distinct)"
        )
        kinds: dict[str | None, list[str]] = {}
        for source in found.files:
            if source.kind != TEXT:
                kinds.setdefault(source.kind, []).append(source.name)
        at_least = "at least " if self.duplicates_bounded else ""
        findings = (
            *((names, f"read as {kind}: {_listed(names)}") for kind, names in kinds.items()),
            (self.boms, f"removed {_count(self.boms, 'byte order mark')}"),
            (self.newlines, f"normalised {_count(self.newlines, 'line end')}"),
            (
                self.replacements,
                f"replaced {_count(self.replacements, 'undecodable sequence')} by U+FFFD",
            ),
            (
                self.bad_rows,
                f"skipped {_count(self.bad_rows, 'bad row')}, the first: {self.first_bad_row}",
            ),
            (self.empty_documents, f"left out {_count(self.empty_documents, 'empty document')}"),
            (
                self.control_characters,
                f"kept {_count(self.control_characters, 'control character')}",
            ),
            (
                self.duplicate_share >= 0.001,
                f"{at_least}{self.duplicate_share:.1%} of the text is lines that came before",
            ),
            (self.longest_line > _LONG_LINE, f"longest line: {self.longest_line:,} characters"),
            (
                found.repeated,
                f"counted once: {_count(found.repeated, 'path')} to what was already read",
            ),
            (found.hidden, f"passed over {_count(found.hidden, 'hidden path')}"),
            (found.loops, f"passed over {_count(found.loops, 'link')} back to a folder above"),
            (found.broken_links, f"passed over {_count(found.broken_links, 'broken link')}"),
            (found.other_kinds, f"passed over {_count(found.other_kinds, 'file')} of other kinds"),
        )
        return [first, *(line for happened, line in findings if happened)]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Scan:
    """Takes the documents of a corpus, a piece at a time, and keeps account of what is in them."""

    def __init__(self) -> None:
        self.document_hashes = array("Q")
        self.document_lengths = array("Q")
        self._counts = np.zeros(128, np.int64)
        self._reader = LineReader()
        self._seen = SeenLines()
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []  # hashes and lengths of lines
        self._characters = self._lines = self._longest = self._empty = 0
        self._line_characters = self._repeated_characters = self._lines_waiting = 0

    def take(self, documents: Iterable[Iterable[str]]) -> None:
        """Take in the pieces of each document, to its end."""
        for codes in blocks_of(ended(map(self._measured, documents))):
            counts = np.bincount(codes)
            if len(counts) > len(self._counts):
                self._counts = np.pad(self._counts, (0, len(counts) - len(self._counts)))
            self._counts[: len(counts)] += counts
            self._take_lines(self._reader.feed(codes))

    def facts(self, sources: Sources, repairs: Repairs, *, encoding: str, size: int) -> Facts:
        """The account so far, with what the readers of the files found."""
        self._compare()
        self._counts[_NEWLINE] -= int(self._counts.sum()) - self._characters  # see `ended`
        counts = Counter(
            {chr(code): int(self._counts[code]) for code in np.flatnonzero(self._counts)}
        )
        return Facts(
            files=len(sources.files),
            bytes=size,
            encoding=encoding,
            boms=repairs.boms,
            newlines=repairs.newlines,
            replacements=repairs.replacements,
            bad_rows=repairs.bad_rows,
            first_bad_row=repairs.first_bad_row,
            characters=self._characters,
            character_counts=counts,
            documents=len(self.document_lengths),
            empty_documents=self._empty,
            lines=self._lines,
            longest_line=self._longest,
            duplicate_share=self._repeated_characters / max(1, self._line_characters),
            duplicates_bounded=self._seen.full,
            control_characters=sum(n for character, n in counts.items() if _is_control(character)),
            sources=sources,
        )

    def _measured(self, pieces: Iterable[str]) -> Iterator[str]:
        digest, length = blake2b(digest_size=8), 0
        for piece in pieces:
            length += len(piece)
            digest.update(piece.encode("utf-8"))
            yield piece
        if length:
            self._characters += length
            self.document_hashes.append(int.from_bytes(digest.digest(), "little"))
            self.document_lengths.append(length)
        else:
            self._empty += 1

    def _take_lines(self, lines: Lines) -> None:
        if not len(lines.hashes):
            return
        self._lines += len(lines.hashes)
        self._longest = max(self._longest, int(lines.lengths.max()))
        self._line_characters += int(lines.lengths.sum())
        telling = lines.inked >= REPEATED_LINE_INK
        self._waiting.append((lines.hashes[telling], lines.lengths[telling]))
        self._lines_waiting += len(self._waiting[-1][0])
        if self._lines_waiting >= _LINES_AT_ONCE:
            self._compare()

    def _compare(self) -> None:
        """Look the waiting lines up among those seen before, many at once: each look-up sorts."""
        if self._waiting:
            hashes, lengths = map(np.concatenate, zip(*self._waiting))
            self._repeated_characters += int(lengths[self._seen.add(hashes)].sum())
        self._waiting, self._lines_waiting = [], 0


def _is_control(character: str) -> bool:
    return (character < " " or "\x7f" <= character < "\xa0") and character not in _KEPT_CONTROLS

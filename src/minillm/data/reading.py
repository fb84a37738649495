"""Documents out of files, each read once from its beginning to its end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .records import TEXT_FIELD, Rows, looks_like_records, records
from .sources import JSON_LINES, PARQUET, TEXT, Source
from .tabular import parquet_rows, table_rows
from .text import Decoding, Repairs, decode, refuse_binary


@dataclass(frozen=True)
class Seal:
    """What the bytes of a file were."""

    size: int
    digest: str
    empty: bool


class Watch:
    """Measures and hashes the bytes of one file as they pass; `told` hears how many did."""

    def __init__(self, told: Callable[[int], None] | None = None) -> None:
        self._told = told
        self._size = 0
        self._hash = hashlib.sha256()

    def over(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._size += len(chunk)
            self._hash.update(chunk)
            if self._told is not None:
                self._told(len(chunk))
            yield chunk

    def seal(self, empty: bool) -> Seal:
        return Seal(self._size, self._hash.hexdigest(), empty)


@dataclass(frozen=True)
class Reader:
    """How files become documents: text in one piece, or in rows of which each is one."""

    decoding: Decoding
    rows: Rows

    def text(self, source: Source, watch: Watch, repairs: Repairs) -> Iterator[str]:
        """The text of a file that is one document, in pieces."""
        chunks = refuse_binary(watch.over(source.chunks()), self.decoding, source.name)
        return decode(chunks, self.decoding, source.name, repairs)

    def documents(
        self, source: Source, watch: Watch, repairs: Repairs
    ) -> Iterator[tuple[str, str]]:
        """(name, text) of each row of a file of rows; the text may be empty."""
        if source.kind == PARQUET:
            for _ in watch.over(source.chunks()):
                pass
            for row, text in parquet_rows(source, self.decoding, self.rows, repairs):
                yield f"{source.name} row {row}", text
            return
        framing, framing_repairs = replace(self.decoding, keep_newlines=False), Repairs()
        chunks = refuse_binary(watch.over(source.chunks()), framing, source.name)
        pieces = decode(chunks, framing, source.name, framing_repairs)
        if source.kind == JSON_LINES:
            found = records(pieces, self.decoding, source.name, self.rows, repairs, source.where)
        else:
            found = table_rows(pieces, self.decoding, source, self.rows, repairs)
        for line, text in found:
            yield f"{source.name} line {line}", text
        repairs.boms += framing_repairs.boms
        repairs.replacements += framing_repairs.replacements

    def recognise(self, sources: Sequence[Source]) -> list[Source]:
        """The sources with their kinds settled; ValueError for a text field that none has."""
        found = [self.recognised(source) for source in sources]
        field = self.rows.text_field
        if field != TEXT_FIELD and all(source.kind == TEXT for source in found):
            raise ValueError(
                f"text-field: {field!r}, but {found[0].name} is text without fields, a file of "
                "rows is needed; leave it out"
            )
        return found

    def recognised(self, source: Source) -> Source:
        """The source with its kind settled, by its first line where its name does not tell."""
        if source.kind is not None:
            return source
        beginning = next(self.text(source, Watch(), Repairs()), "")
        first_line, *_ = beginning.split("\n", 1)
        rows = looks_like_records(first_line, self.rows.text_field)
        return replace(source, kind=JSON_LINES if rows else TEXT)

"""Rows of tables that are a document each: CSV, TSV and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .records import RECORD_LIMIT, Rows, cleaned, lines
from .sources import CSV, Source
from .text import Decoding, Repairs

_SHOWN = 8
_BATCH_ROWS = 256


def table_rows(
    pieces: Iterable[str], decoding: Decoding, source: Source, rows: Rows, repairs: Repairs
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of each row of a CSV or TSV file that is not empty.

    The first line names the columns, unless the text field is a number: that takes the column at
    this place (from 1) of a file without names. Quotes mean something in CSV only. Raises
    ValueError for a missing column, with those there are, and for rows of another length.
    """
    csv.field_size_limit(RECORD_LIMIT)
    fields: dict[str, Any] = {"delimiter": ",", "strict": True}
    if source.kind != CSV:
        fields = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader((f"{line}\n" for line in lines(pieces, source.name)), **fields)
    find = _numbered(source, rows) if rows.text_field.isdecimal() else None
    width = 0
    for row in _parsed(reader, source, rows, repairs):
        if not row:
            continue
        if find is None:
            width, find = len(row), _named(row, source, rows)
            continue
        width = width or len(row)
        place = f"read: {source.name} line {reader.line_num}"
        try:
            if len(row) != width:
                raise ValueError(f"{place} has {len(row)} fields, {width} are needed")
            text = cleaned(find(row), decoding, place, repairs)
        except ValueError as error:
            rows.bad(error, repairs)
            continue
        yield reader.line_num, text


def _parsed(reader: Any, source: Source, rows: Rows, repairs: Repairs) -> Iterator[list[str]]:
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault = f"read: {source.name} line {reader.line_num} is not {source.kind} ({error})"
            rows.bad(ValueError(f"{fault}, rows of fields are needed"), repairs)


def _named(columns: Sequence[str], source: Source, rows: Rows) -> Callable[[list[str]], str]:
    if rows.text_field not in columns:
        raise no_column(source.name, rows.text_field, columns)
    at = list(columns).index(rows.text_field)
    return lambda row: row[at]


def _numbered(source: Source, rows: Rows) -> Callable[[list[str]], str]:
    at = int(rows.text_field) - 1

    def find(row: list[str]) -> str:
        if not 0 <= at < len(row):
            raise ValueError(
                f"read: {source.name} has {len(row)} columns, column {at + 1} is needed; "
                "name another with --text-field"
            )
        return row[at]

    return find


def no_column(name: str, wanted: str, columns: Sequence[str]) -> ValueError:
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    there = ", ".join(repr(column[:40]) for column in columns[:_SHOWN]) + more
    return ValueError(
        f"read: {name} has no column {wanted!r} but {there or 'none'}, a text is needed; name the "
        "column with --text-field, or its number (from 1) where the first line names none"
    )


def parquet_rows(
    source: Source, decoding: Decoding, rows: Rows, repairs: Repairs
) -> Iterator[tuple[int, str]]:
    """Yield (row number from 1, text) of each row of a Parquet file; errors as in `table_rows`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            f"read: {source.name} is a Parquet file, which needs the extra data; "
            "pip install 'minillm[data]'"
        ) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(source.path) as file:
            names = file.schema_arrow.names
            if rows.text_field not in names:
                raise no_column(source.name, rows.text_field, names)
            kind = file.schema_arrow.field(rows.text_field).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise ValueError(
                    f"read: {source.name}: column {rows.text_field!r} is {kind}, strings are needed"
                )
            for batch in file.iter_batches(_BATCH_ROWS, columns=[rows.text_field]):
                for text in batch.column(0):
                    number += 1
                    place = f"read: {source.name} row {number}"
                    if text.is_valid:
                        yield number, cleaned(text.as_py(), decoding, place, repairs)
                    else:
                        rows.bad(ValueError(f"{place} is null, a string is needed"), repairs)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(
            f"read: {source.name} is damaged Parquet ({' '.join(str(error).split())}), a whole "
            "file is needed"
        ) from error

"""A corpus: text in files, read as often as needed and never held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from minillm.quantities import counted

from .facts import Facts, Scan
from .reading import Reader, Seal, Watch
from .records import Rows
from .sources import CHUNK_BYTES, TEXT, PathLike, Source, Sources, find
from .text import Decoding, Repairs

_LEAST_CHARACTERS = 2
_Item = TypeVar("_Item")


def read(
    paths: PathLike | Iterable[PathLike],
    *,
    encoding: str = "utf-8",
    errors: str = "strict",
    keep_newlines: bool = False,
    text_field: str = "text",
    on_bad: str = "stop",
) -> Corpus:
    """Open and measure the texts that `paths` (files, folders, "-" for standard input) name.

    .txt and .md files are one document each, each line of a .jsonl file is one document: the
    string, or the string in its `text_field`, as is each row of a .csv, .tsv or .parquet file;
    .gz and .zst are unpacked. Standard input and files of other names are JSON lines where their
    first line is such a record, otherwise text. `on_bad`: "stop" at a row without a text, or
    "skip" and count it.
    `encoding` names any text codec, `errors` is "strict" or "replace", `keep_newlines` keeps CR
    and CRLF. Reads every byte once, in memory that does not grow with the files (a record
    is held whole). Raises ValueError for what is not text, broken or holds less than two
    characters, OSError for what is missing or unreadable: one line naming file and place.
    """
    decoding = Decoding(encoding, errors, keep_newlines)
    return Corpus(find(paths), Reader(decoding, Rows(text_field, on_bad)))


@dataclass(frozen=True)
class Document:
    """One text: a .txt file, or one row of a file of rows. `name` says where it came from."""

    name: str
    _open: Callable[[], Iterator[str]]

    def pieces(self) -> Iterator[str]:
        """Yield the text in order, at most 262,144 characters at a time.

        Raises RuntimeError where the file is not what it was when the corpus was opened.
        """
        return self._open()


class Corpus:
    """Texts found and measured by `read`.

    `facts` tells what is in it; `document_hashes` (64 bit) and `document_lengths` (characters)
    hold one entry a document, in the order of `documents()`.
    """

    def __init__(self, sources: Sources, reader: Reader) -> None:
        self._reader = reader
        self._sources = replace(sources, files=reader.recognise(sources.files))
        self._seals: list[Seal] = []
        scan, repairs = Scan(), Repairs()
        scan.take(self._first_reading(scan, repairs))
        self.document_hashes, self.document_lengths = scan.document_hashes, scan.document_lengths
        self.facts: Facts = scan.facts(
            self._sources,
            repairs,
            encoding=reader.decoding.encoding,
            size=sum(seal.size for seal in self._seals),
        )
        if self.facts.characters < _LEAST_CHARACTERS:
            names = ", ".join(source.name for source in sources.files[:3])
            raise ValueError(
                f"read: {names} holds {counted(self.facts.characters, 'character')}, at "
                f"least {_LEAST_CHARACTERS} are needed"
            )

    def documents(self) -> Iterator[Document]:
        """Yield the documents that hold text, in order.

        Raises RuntimeError where a file is not what it was when the corpus was opened.
        """
        for source, seal in zip(self._sources.files, self._seals):
            if source.kind != TEXT:
                for name, text in _unchanged(partial(self._reader.documents, source), source, seal):
                    if text:
                        yield Document(name, partial(_sliced, text))
            elif not seal.empty:
                yield Document(
                    source.name,
                    partial(_unchanged, partial(self._reader.text, source), source, seal),
                )

    def _first_reading(self, scan: Scan, repairs: Repairs) -> Iterator[Iterator[str]]:
        for source in self._sources.files:
            before = len(scan.document_lengths)
            watch = Watch()
            if source.kind != TEXT:
                for _, text in self._reader.documents(source, watch, repairs):
                    yield _sliced(text)
            else:
                yield self._reader.text(source, watch, repairs)
            self._seals.append(watch.seal(empty=len(scan.document_lengths) == before))


def _unchanged(
    open_again: Callable[[Watch, Repairs], Iterator[_Item]], source: Source, seal: Seal
) -> Iterator[_Item]:
    """Yield from a file that was read before, raising RuntimeError where it is not the same."""
    watch = Watch()
    try:
        yield from open_again(watch, Repairs())
    except (ValueError, FileNotFoundError) as error:
        now_said = str(error).removeprefix("read: ")
        raise RuntimeError(
            f"read: {source.name} changed while it was in use, a file that stays "
            f"the same is needed; now {now_said}"
        ) from error
    now = watch.seal(seal.empty)
    if now != seal:
        raise RuntimeError(
            f"read: {source.name} changed while it was in use ({counted(seal.size, 'byte')}, "
            f"sha256 {seal.digest[:12]} before; {counted(now.size, 'byte')}, {now.digest[:12]} "
            "now), a file that stays the same is needed"
        )


def _sliced(text: str) -> Iterator[str]:
    for at in range(0, len(text), CHUNK_BYTES):
        yield text[at : at + CHUNK_BYTES]

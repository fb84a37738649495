"""What is in texts: a preparation that writes nothing and leaves nothing out, with its findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..guessing import guess_encoding
from ..reading import Reader
from ..sources import PARQUET, Source, size_of
from ..text import Decoding, Repairs
from .alphabets import LANGUAGES
from .minhash import THRESHOLD, groups, near_pairs
from .options import Options
from .parts import Cleaning
from .personal import KINDS, scrub
from .pool import in_order
from .quality import NAMES, quality
from .sections import Part, parts, sections
from .selection import Catalogue

FREQUENT, SHOWN = 20, 120  # lines, characters of one
_COUNTED = 2000  # different lines of a part that are counted on
_LOOKED_AT = Options(drop_boilerplate=True, scrub_pii=True, min_quality=1.0)

Meter = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class SurveyedPart:
    """What was found in a part: as a `CleanPart` without the text, and its most frequent lines."""

    arrays: dict[str, np.ndarray]
    counts: Counter[str]
    personal: Counter[str]
    lines: list[tuple[str, int]]

    def read(self, *names: str) -> list[Any]:
        return [self.arrays[name] for name in names]


def surveyed(part: Part) -> SurveyedPart:
    """The work on one part, in any process."""
    cleaning = Cleaning(Path(), _LOOKED_AT)
    found = cleaning.worked_out(part)
    facts, hits = cleaning.content(found, "facts"), cleaning.content(found, "hits")
    lines: Counter[str] = Counter()
    for section in part.sections:
        stripped = map(str.strip, section.text.split("\n"))
        lines.update(line[: 4 * SHOWN] for line in stripped if line)
    dropped = ("text", "ends", "names", "hits", "facts", "digest")
    return SurveyedPart(
        {name: array for name, array in found.items() if name not in dropped},
        Counter(facts["counts"]),
        Counter(kind for _, kind, _, _ in hits),
        lines.most_common(_COUNTED),
    )


def survey(
    files: Sequence[Source], reader: Reader, encoding: str | None, workers: int, meter: Meter
) -> dict[str, Any]:
    """What is in `files`, for JSON. `encoding` is that of all, None to find each one's out.

    Undecodable bytes are replaced and counted, bad rows as the reader says. Languages, quality and
    duplicates are those of `prepare`; a document of more than 1,048,576 characters counts as
    several there. Frequent lines are counted on in each 4 million characters only as long as they
    are among 2,000: the figures are the least there are.
    """
    told: list[dict[str, Any]] = []
    found: list[SurveyedPart] = []
    repairs = Repairs()

    def everything(read: Callable[[int], None]) -> Any:
        first = 0
        for source in files:
            name, note = (encoding, "") if encoding else _encoding_of(source)
            own = Repairs()
            chosen = reader
            if name != reader.decoding.encoding:
                chosen = replace(reader, decoding=Decoding(name, reader.decoding.errors))
            last = first
            for section in sections([source], chosen, own, read):
                last = first + section.document + 1
                yield replace(section, document=first + section.document)
            told.append(_told(source, name, note, own, last - first))
            first = last
            _add(repairs, own)

    with meter("bytes read", size_of(files)) as read:
        found += in_order(surveyed, parts(everything(read)), workers)
    if not found:
        raise ValueError(f"report: no text in {files[0].name}, at least 1 document is needed")
    return {"files": told, **_findings(found, repairs)}


def _encoding_of(source: Source) -> tuple[str, str]:
    if source.kind == PARQUET:
        return "utf-8", ""
    return guess_encoding(source.chunks())


def _told(source: Source, encoding: str, note: str, own: Repairs, documents: int) -> dict[str, Any]:
    return {
        "name": source.name,
        "kind": source.kind,
        "encoding": encoding,
        "note": note,
        "documents": documents,
        "byte order marks": own.boms,
        "CR and CRLF line ends": own.newlines,
        "undecodable sequences": own.replacements,
        "bad rows": own.bad_rows,
        "first bad row": own.first_bad_row,
    }


def _add(total: Repairs, own: Repairs) -> None:
    for name in ("boms", "newlines", "replacements", "bad_rows"):
        setattr(total, name, getattr(total, name) + getattr(own, name))


def _findings(found: list[SurveyedPart], repairs: Repairs) -> dict[str, Any]:
    catalogue = Catalogue(found)
    counts = sum((part.counts for part in found), Counter())
    personal = sum((part.personal for part in found), Counter())
    characters = catalogue["characters"]
    of_documents = np.bincount(catalogue["document"], characters).astype(np.int64)
    languages = np.bincount(catalogue["language"], characters, len(LANGUAGES)).astype(np.int64)
    broken = catalogue["broken"]
    return {
        "documents": len(of_documents),
        "bytes of text": int(catalogue["bytes"].sum()),
        "characters": int(characters.sum()),
        "words": int(catalogue["words"].sum()),
        "lines": int(catalogue["lines"].sum()),
        "lengths": _lengths(of_documents),
        "languages": {
            LANGUAGES[place]: int(languages[place])
            for place in np.argsort(-languages, kind="stable")
            if languages[place]
        },
        "duplicates": _duplicates(catalogue),
        "characters and lines": {
            "control characters": counts["control characters removed"],
            "texts not in NFC": counts["texts normalised"],
            "boilerplate lines": counts["boilerplate lines removed"],
            "byte order marks": repairs.boms,
            "CR and CRLF line ends": repairs.newlines,
            "undecodable sequences": repairs.replacements,
            "bad rows": repairs.bad_rows,
        },
        "personal data": {kind: personal[kind] for kind in KINDS},
        "quality": {
            "mean": round(float(quality(broken).mean()), 4),
            "texts that break a rule": {
                name: int(((broken >> bit) & 1).sum()) for bit, name in enumerate(NAMES)
            },
        },
        "frequent lines": _frequent(found),
    }


def _lengths(lengths: np.ndarray) -> dict[str, Any]:
    """Characters of documents: a few figures, and how many fall between powers of two."""
    histogram = np.bincount(np.ceil(np.log2(np.maximum(1, lengths))).astype(np.int64))
    return {
        "shortest": int(lengths.min()),
        "median": int(np.median(lengths)),
        "mean": round(float(lengths.mean()), 1),
        "95 %": int(np.percentile(lengths, 95)),
        "longest": int(lengths.max()),
        "histogram": [
            {"up to": 1 << power, "documents": int(count)}
            for power, count in enumerate(histogram)
            if count
        ],
    }


def _duplicates(catalogue: Catalogue) -> dict[str, Any]:
    """Texts that are equal or alike to one before them."""
    characters = catalogue["characters"]
    _, first = np.unique(catalogue["hash"], return_index=True)
    exact = np.ones(len(catalogue), bool)
    exact[first] = False
    exact &= characters > 0
    asked = ~exact & (catalogue["words"] > 0)
    labels = groups(len(catalogue), near_pairs(catalogue.sketches, asked, THRESHOLD))
    near = labels < np.arange(len(labels))
    return {
        name: {"texts": int(which.sum()), "characters": int(characters[which].sum())}
        for name, which in (("exact", exact), ("near", near))
    }


def _frequent(found: list[SurveyedPart]) -> list[dict[str, Any]]:
    counts: Counter[str] = Counter()
    for part in found:
        counts.update(dict(part.lines))
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:FREQUENT]
    return [{"line": scrub(line)[0][:SHOWN], "times": times} for line, times in most if times > 1]

"""What was found and done, for people and programs; where, but never what, for personal data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...formats.files import atomic_write
from ...quantities import counted
from ..facts import Facts
from .alphabets import LANGUAGES
from .options import Options
from .parts import CleanPart
from .personal import KINDS
from .quality import NAMES
from .selection import KEPT, QUALITY, REASONS, Catalogue, Selection

REMOVED, PERSONAL = "removed.jsonl", "personal.jsonl"
MISSED = 0.1  # of the share that was asked for, from which on it is spoken of


def described(
    parts: Sequence[CleanPart],
    catalogue: Catalogue,
    selection: Selection,
    options: Options,
    read: Facts,
) -> dict[str, Any]:
    """The content of a manifest that tells of the text; `read` says what reading found."""
    kept = selection.reasons == KEPT
    counts: Counter[str] = Counter()
    personal: Counter[str] = Counter()
    for part, places in zip(parts, _by_part(catalogue, kept)):
        facts, hits = part.read("facts", "hits")
        counts.update(facts["counts"])
        personal.update(kind for place, kind, _, _ in hits if places[place])
    return {
        "options": options.to_dict(),
        "text": {
            "files": read.files,
            "bytes": int(catalogue["bytes"][kept].sum()),
            "encoding": "utf-8",
            "documents": len(selection.firsts),
            "lines": int(catalogue["lines"][kept].sum()),
            "characters": int(catalogue["characters"][kept].sum()),
        },
        "read": _read(catalogue, read),
        "cleaned": dict(sorted(counts.items())),
        "removed": _removed(catalogue, selection),
        "rules broken": {
            name: int(((catalogue["broken"] >> bit) & 1).sum()) for bit, name in enumerate(NAMES)
        }
        if options.min_quality
        else {},
        "personal data": {kind: personal[kind] for kind in KINDS} if options.scrub_pii else {},
        "languages": _languages(catalogue, kept),
    }


def _read(catalogue: Catalogue, read: Facts) -> dict[str, Any]:
    return {
        "bytes of text": int(catalogue["bytes"].sum()),
        "documents": len(np.unique(catalogue["document"])),
        "byte order marks removed": read.boms,
        "line ends normalised": read.newlines,
        "undecodable sequences replaced": read.replacements,
        "bad rows skipped": read.bad_rows,
        "first bad row": read.first_bad_row,
    }


def _removed(catalogue: Catalogue, selection: Selection) -> dict[str, Any]:
    """Texts and characters left out, by reason."""
    found = {}
    for reason in range(1, len(REASONS)):
        of_it = selection.reasons == reason
        characters = int(catalogue["characters"][of_it].sum())
        found[REASONS[reason]] = {"texts": int(of_it.sum()), "characters": characters}
    return found


def _languages(catalogue: Catalogue, kept: np.ndarray) -> dict[str, int]:
    """Characters of the kept text by language, the most first."""
    counts = np.bincount(catalogue["language"][kept], catalogue["characters"][kept], len(LANGUAGES))
    order = np.argsort(-counts, kind="stable")
    return {LANGUAGES[place]: int(counts[place]) for place in order if counts[place]}


def _by_part(catalogue: Catalogue, values: np.ndarray) -> list[np.ndarray]:
    return [values[start:end] for start, end in zip(catalogue.starts[:-1], catalogue.starts[1:])]


def write_places(
    folder: Path, parts: Sequence[CleanPart], catalogue: Catalogue, selection: Selection
) -> None:
    """Write removed.jsonl and personal.jsonl, one line for each text left out and each hit.

    A hit is told by its document, line and column (from 1, before anything was scrubbed).
    """
    reasons = _by_part(catalogue, selection.reasons)
    broken = _by_part(catalogue, catalogue["broken"])
    with atomic_write(folder / REMOVED) as removed, atomic_write(folder / PERSONAL) as personal:
        for part, reason, bits in zip(parts, reasons, broken):
            names, hits = part.read("names", "hits")
            for place in np.flatnonzero(reason != KEPT).tolist():
                line = {"document": names[place], "reason": REASONS[reason[place]]}
                if reason[place] == QUALITY:
                    line["breaks"] = [n for bit, n in enumerate(NAMES) if bits[place] >> bit & 1]
                removed.write(_line(line))
            for place, kind, row, column in hits:
                if reason[place] == KEPT:
                    hit = {"document": names[place], "kind": kind, "line": row, "column": column}
                    personal.write(_line(hit))


def _line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8")


def mixture_lines(mixture: Sequence[Mapping[str, Any]]) -> list[str]:
    """How often each source of a mixture is read, and which documents are too few for its share."""
    lines = []
    for part in mixture:
        line = f"mixture: {part['source']} is read {part['passes']:g} times in a pass"
        if "share" in part:  # not in a manifest of earlier versions
            line += f", {part['share']:.1%} of the tokens"
            if abs(part["share"] - part["asked"]) > MISSED * part["asked"]:
                line += f" ({part['asked']:.1%} asked: its documents are too few or too long)"
        lines.append(line)
    return lines


def lines_for_people(content: dict[str, Any]) -> list[str]:
    """A manifest in words, one finding a line; what did not happen is not mentioned."""
    read, text = content["read"], content["text"]
    lines = [
        f"read: {counted(read['documents'], 'document')} in {counted(text['files'], 'file')}, "
        f"{read['bytes of text']:,} bytes of text"
    ]
    lines += [
        f"read: {name}: {value:,}"
        for name, value in read.items()
        if isinstance(value, int) and value and name not in ("documents", "bytes of text")
    ]
    if read["first bad row"]:
        lines.append(f"the first bad row: {read['first bad row']}")
    lines += [f"cleaned: {name}: {value:,}" for name, value in content["cleaned"].items()]
    lines += [
        f"removed: {name}: {counted(of['texts'], 'text')}, {of['characters']:,} characters"
        for name, of in content["removed"].items()
        if of["texts"]
    ]
    lines += [
        f"rule broken: {name}: {counted(value, 'text')}"
        for name, value in content["rules broken"].items()
        if value
    ]
    found = [f"{value:,} {kind}" for kind, value in content["personal data"].items() if value]
    if found:
        lines.append(f"scrubbed: {', '.join(found)} (places in {PERSONAL})")
    languages = content["languages"]
    shares = [f"{name} {value / sum(languages.values()):.1%}" for name, value in languages.items()]
    lines.append(f"languages: {', '.join(shares[:6])}")
    lines.append(
        f"kept: {counted(text['documents'], 'document')}, {counted(text['lines'], 'line')}, "
        f"{counted(text['characters'], 'character')}"
    )
    return lines

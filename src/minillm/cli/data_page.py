"""The page of `minillm data report`: figures, bars and tables that open offline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from minillm.quantities import count, size
from minillm.training.page import columns_table, document, facts_table, figures, section, text


def page(found: Mapping[str, Any]) -> str:
    """The findings of a survey as HTML."""
    duplicates, personal = found["duplicates"], found["personal data"]
    headline = figures(
        [
            ("Text", size(found["bytes of text"]), f"{count(found['characters'])} characters"),
            ("Documents", count(found["documents"]), f"{count(found['lines'])} lines"),
            ("Words", count(found["words"]), ""),
            ("Duplicates", count(sum(of["texts"] for of in duplicates.values())), "texts"),
            ("Personal data", count(sum(personal.values())), "places"),
            ("Quality", f"{found['quality']['mean']:.1%}", "of ten rules kept, on average"),
        ]
    )
    lengths = dict(found["lengths"])
    histogram = lengths.pop("histogram")
    total = sum(found["languages"].values()) or 1
    body = f"<h1>Text report</h1>\n{headline}" + "".join(
        (
            section(
                "Languages",
                _bars("Characters by language", "Language", found["languages"].items()),
                text("By script, and by frequent words where languages share one.")
                if total
                else "",
            ),
            section(
                "Lengths",
                _bars(
                    "Characters of a document",
                    "Up to",
                    [(f"{bar['up to']:,}", bar["documents"]) for bar in histogram],
                ),
                facts_table("Characters", lengths),
            ),
            section(
                "Duplicates",
                columns_table(
                    "Texts like one before them",
                    ("", "texts", "characters"),
                    [
                        (name, f"{of['texts']:,}", f"{of['characters']:,}")
                        for name, of in duplicates.items()
                    ],
                    "numbers",
                ),
            ),
            section("Characters and lines", facts_table("Found", found["characters and lines"])),
            section("Personal data", facts_table("Places by kind", personal)),
            section(
                "Quality",
                facts_table("Texts that break a rule", found["quality"]["texts that break a rule"]),
            ),
            section("Frequent lines", _frequent(found)),
            section("Files", _files(found)),
        )
    )
    return document("Text report", body)


def _bars(caption: str, head: str, values: Iterable[tuple[str, int]]) -> str:
    pairs = list(values)
    most = max((value for _, value in pairs), default=1)
    rows = [(name, f"{value:,}", "█" * round(30 * value / most) or "▏") for name, value in pairs]
    return columns_table(caption, (head, "", ""), rows)


def _frequent(found: Mapping[str, Any]) -> str:
    rows = [(f"{line['times']:,}", line["line"]) for line in found["frequent lines"]]
    return columns_table("Lines that occur most often", ("times", "line"), rows) if rows else ""


def _files(found: Mapping[str, Any]) -> str:
    rows = [
        (of["name"], of["kind"], f"{of['documents']:,}", of["encoding"], of["note"])
        for of in found["files"]
    ]
    return columns_table("Files", ("file", "kind", "documents", "encoding", ""), rows)

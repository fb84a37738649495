"""The pieces of a self-contained page: escaped text, tables, the frame with style and script."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from minillm.training.console import shorten, visible

CELL_LIMIT = 500  # characters of one value in a table


def text(value: str) -> str:
    """Any string as HTML text: markup escaped, control and direction marks written out."""
    return html.escape(visible(value))


def section(heading: str, *content: str) -> str:
    """A headed section; nothing where there is no content."""
    body = "".join(content)
    return f"<section><h2>{text(heading)}</h2>{body}</section>\n" if body else ""


def facts_table(caption: str, facts: Mapping[str, Any]) -> str:
    """Two columns, name and value; nothing for no facts."""
    if not facts:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{text(name.replace("_", " "))}</th>'
        f"<td>{text(shorten(in_words(value), CELL_LIMIT))}</td></tr>"
        for name, value in facts.items()
    )
    return f'<table class="facts"><caption>{text(caption)}</caption><tbody>{rows}</tbody></table>'


def columns_table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], style: str = ""
) -> str:
    """A table with a head row; the first cell of each row names it. `style` may be "numbers"."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{text(first)}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<table class="columns {style}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def figures(pairs: Iterable[tuple[str, str, str]]) -> str:
    """Headline figures: what, how much, and a note."""
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for name, value, note in pairs
    )
    return f'<dl class="figures">{items}</dl>\n' if items else ""


def in_words(value: object) -> str:
    """A setting or fact as text; containers as JSON."""
    match value:
        case None:
            return "not set"
        case bool():
            return "yes" if value else "no"
        case str():
            return value or "(empty)"
        case list() if all(isinstance(item, (str, int, float)) for item in value):
            return ", ".join(map(in_words, value)) or "(none)"
        case dict() | list():
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def document(title: str, body: str) -> str:
    """The whole page. Style and script are inside, so it opens anywhere, offline."""
    here = files("minillm.training")
    style = here.joinpath("report.css").read_text(encoding="utf-8")
    script = here.joinpath("report.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )

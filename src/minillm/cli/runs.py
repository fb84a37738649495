"""List training runs, or compare some of them."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minillm.cli.main import OK, tell
from minillm.quantities import count, counted, decimal

if TYPE_CHECKING:
    from minillm.training.runs import Found, Told

SORTS = ("when", "name", "best", "steps")
STATES = ("running", "done", "stopped", "diverged", "crashed")
SHOWN, CELL = 8, 32  # folders named; characters of a cell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", nargs="?", default="runs", metavar="DIR", help="where to look (runs)")
    add("--sort", choices=SORTS, default="when", help="when (newest first), name, best or steps")
    add("--state", choices=STATES, action="append", help="runs of this state only; repeatable")
    add("--match", metavar="TEXT", help="runs with this in their name, data, model or command")
    add("--compare", nargs="+", metavar="RUN", help="2 or more, by folder or by name in DIR")
    add("--page", metavar="FILE.html", help="with --compare: their curves on one page")
    add("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace) -> int:
    from minillm.training import runs

    if arguments.compare is not None:
        for name in ("state", "match"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"runs: --{name} and --compare: each goes without the other")
        return _compare(arguments)
    if arguments.page is not None:
        raise ValueError("runs: --page goes with --compare only")
    found = runs.find(arguments.folder)
    chosen = _sorted([one for one in found.runs if _wanted(one, arguments)], arguments.sort)
    if arguments.json:
        damaged = [{"name": name, "reason": why} for name, why in found.damaged]
        listed = {"runs": [_as_json(one) for one in chosen], "damaged": damaged}
        print(json.dumps(listed | {"foreign": found.foreign}))
        return OK
    _list(chosen)
    _tell_of_rest(found, len(chosen), arguments.folder)
    return OK


def _wanted(one: Told, arguments: argparse.Namespace) -> bool:
    if arguments.state is not None and one.state not in arguments.state:
        return False
    wanted = (arguments.match or "").casefold()
    return any(wanted in text.casefold() for text in (one.name, one.data, one.model, one.command))


def _sorted(found: list[Told], by: str) -> list[Told]:
    """In the order asked for; by their best only runs with the same metric stand together."""
    if by == "name":
        return sorted(found, key=lambda one: one.name)
    if by == "steps":
        return sorted(found, key=lambda one: (-one.summary.steps, one.name))
    if by == "best":
        return sorted(found, key=_by_best)
    return sorted(found, key=lambda one: (-one.when, one.name))


def _by_best(one: Told) -> tuple[Any, ...]:
    if one.best is None:
        return True, "", 0.0, one.name
    sign = -1 if one.decides.highest else 1
    return False, one.decides.metric, sign * one.best, one.name


def _list(chosen: list[Told]) -> None:
    rows: list[tuple[str, ...]] = [
        ("run", "when", "state", "command", "model", "data", "steps", "best")
    ]
    rows += [_cells(one) for one in chosen]
    if chosen:
        _print(rows, right=(6,))


def _cells(one: Told) -> tuple[str, ...]:
    from minillm.training.objective import heading

    goal = one.settings.get("steps")
    steps = f"{one.summary.steps:,}" + (f"/{goal:,}" if isinstance(goal, int) else "")
    size = "" if one.parameters is None else f" {count(one.parameters)}"
    best = ""
    if one.best is not None:
        best = f"{heading(one.decides.metric).lower()} {decimal(one.best, 4)}"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.when))
    return (one.name, when, one.state, one.command, _short(f"{one.model}{size}"), _short(one.data),
            steps, best)  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= CELL else f"{text[: CELL - 3]}..."


def _print(rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    from minillm.training.console import visible

    rows = [tuple(map(visible, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        line = [c.rjust(w) if k in right else c.ljust(w) for k, (c, w) in enumerate(cells)]
        print("  ".join(line).rstrip())


def _tell_of_rest(found: Found, chosen: int, folder: str) -> None:
    """What else is there, none of it fatal."""
    if not found.runs and not found.damaged:
        tell(f"minillm: note: no run in {folder}")
    elif chosen < len(found.runs):
        tell(f"minillm: note: {counted(len(found.runs) - chosen, 'run')} of another kind left out")
    for name, why in found.damaged:
        tell(f"minillm: note: {name} is damaged: {why}")
    if found.foreign:
        named = ", ".join(found.foreign[:SHOWN])
        more = f" and {len(found.foreign) - SHOWN} more" if len(found.foreign) > SHOWN else ""
        tell(f"minillm: note: no runs in {named}{more}")


def _compare(arguments: argparse.Namespace) -> int:
    from minillm.training.comparison import outcomes, write_comparison
    from minillm.training.runs import differing

    if len(arguments.compare) < 2:
        raise ValueError(f"runs: {counted(len(arguments.compare), 'run')} to compare, 2 are needed")
    chosen = [_opened(name, arguments.folder) for name in arguments.compare]
    settings = differing(chosen)
    if arguments.page is not None:
        if not arguments.page.endswith((".html", ".htm")):
            raise ValueError(f"page: {arguments.page}, a name that ends in .html is needed")
        write_comparison(arguments.page, chosen)
    if arguments.json:
        listed = [_as_json(one) for one in chosen]
        print(json.dumps({"runs": listed, "settings_that_differ": settings}))
        return OK
    from minillm.training.page import in_words

    names = ("", *(one.name for one in chosen))
    _print([names, *outcomes(chosen)])
    print("\nsettings that differ:" if settings else "\nno setting differs")
    if settings:
        _print([(name, *(_short(in_words(v)) for v in row)) for name, row in settings.items()])
    if arguments.page is not None:
        tell(f"curves: {arguments.page}")
    return OK


def _opened(name: str, folder: str) -> Told:
    from minillm.training import runs

    for path in (Path(name), Path(folder) / name):
        if runs.is_run(path):
            return runs.read(path, name)
    raise FileNotFoundError(f"runs: {name} is no run, nor is one of that name in {folder}")


def _as_json(one: Told) -> dict[str, Any]:
    return {
        "name": one.name,
        "folder": str(one.folder),
        "state": one.state,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.when)),
        "command": one.command,
        "model": one.model,
        "parameters": one.parameters,
        "data": one.settings.get("files"),
        "steps": one.summary.steps,
        "goal": one.settings.get("steps"),
        "tokens": one.summary.tokens,
        "elapsed_s": one.summary.elapsed_s,
        "training_loss": one.summary.loss,
        "metric": one.decides.metric,
        "best": one.best,
        "last": one.summary.final,
    }

"""What a benchmark says: the machine, a line for each contender, and the same as JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy

from bench.environment import MASKS
from bench.limits import Limits
from minillm import kernels
from minillm.formats.files import atomic_write_text
from minillm.machine import environment

BUSY = 0.5  # load above which the figures are doubtful
STEAL, STAT = 8, "/proc/stat"  # proc(5): the eighth time of the first line
COLUMNS: dict[str, tuple[str, int, str]] = {  # key of a row: title, width, format of a number
    "op": ("op", 28, ""),
    "case": ("case", 24, ""),
    "pass": ("pass", 8, ""),
    "size": ("size", 4, ""),
    "model": ("model", 14, ""),
    "shapes": ("shapes", 32, ""),
    "mode": ("", 8, ""),
    "precision": ("prec", 4, ""),
    "provider": ("provider", 13, ""),
    "ms": ("ms", 9, ".4g"),
    "ns": ("ns", 6, ".0f"),
    "spread": ("spread", 6, ".0%"),
    "tokens_per_s": ("tokens/s", 8, ".0f"),
    "gflops": ("GFLOP/s", 7, ".0f"),
    "gb_per_s": ("GB/s", 6, ".1f"),
    "limit": ("limit", 11, ""),
    "share": ("share", 6, ".0%"),
    "prompt_per_s": ("prompt/s", 8, ".0f"),
    "first_s": ("first s", 7, ".2f"),
    "rss_mb": ("MB", 5, ".0f"),
    "beyond_mb": ("- file", 6, ".0f"),
    "peak_rss_mb": ("peak MB", 7, ".0f"),
    "rss_mb_step_10": ("MB at step 10", 13, ".1f"),
    "rss_mb_step_1000": ("at 1000", 7, ".1f"),
    "ratio_memory": ("x torch's", 9, ".2f"),
    "ratio_reference": ("x reference", 11, ".2f"),
    "ratio_torch": ("x torch", 7, ".2f"),
    "clients": ("clients", 7, ".0f"),
    "ratio_one": ("x one", 6, ".2f"),
    "ratio_peer": ("x peer", 6, ".2f"),
    "wrong": ("wrong", 5, ".0f"),
    "ratio_decode": ("x decode", 8, ".2f"),
    "ratio_prompt": ("x prompt", 8, ".2f"),
    "ratio_first": ("x first", 7, ".2f"),
}


def facts(options: argparse.Namespace, limits: Limits | None) -> dict[str, str]:
    """The machine, its limits and the libraries, as plain strings."""
    known = environment()
    blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
    known["blas"] = f"{blas.get('name')} {blas.get('version')}"
    if kernels.cpu is None:
        known["extension"] = "none"
    else:
        known["extension"] = f"C++ for {kernels.cpu.runtime.isa()}"
    if options.against and getattr(options, "peer_python", None):
        known["peer"] = f"{options.against} of {options.peer_python}"
    elif options.against:
        known["torch"] = importlib.metadata.version("torch")
        masks = [f"{name}={os.environ[name]}" for name in MASKS if name in os.environ]
        known["torch"] += f", held to {' '.join(masks)}" if masks else ""
    known["threads"] = str(options.threads)
    if limits is not None:
        known |= limits.facts()
    if hasattr(os, "getloadavg"):
        known["load"] = f"{os.getloadavg()[0]:.2f}"
    return known


def processor_times() -> list[int]:
    """Ticks of all processors by kind since the start; none where the system does not say."""
    try:
        with open(STAT, encoding="ascii") as file:
            return [int(field) for field in file.readline().split()[1:]]
    except OSError:
        return []


class Report:
    """Prints the machine, then every row as it comes, then what was learnt on the way."""

    def __init__(
        self, options: argparse.Namespace, columns: str, limits: Limits | None = None
    ) -> None:
        self.path: Path | None = options.json
        self.columns = {key: COLUMNS[key] for key in columns.split()}
        self.command = f"python -m bench {shlex.join(sys.argv[1:])}"
        self.limits = limits
        self.machine = facts(options, limits)
        self.rows: list[dict[str, Any]] = []
        self.times = processor_times()
        print(f"{self.command}\n")
        self.told = self.tell(0)
        if float(self.machine.get("load", 0)) > BUSY:
            print("note: others use this machine now, the figures will be worse than it can do")
        self.heading("")

    def heading(self, text: str) -> None:
        """Begin a table."""
        print(f"\n{text}\n" if text else "")
        self.show({key: title for key, (title, _, _) in self.columns.items()})

    def tell(self, start: int) -> int:
        """Print the facts from number `start` on; how many there are."""
        for name, value in list(self.machine.items())[start:]:
            print(f"{name:10} {value}")
        return len(self.machine)

    def show(self, row: dict[str, Any]) -> None:
        """One line: text on the left of its column, a number (or its title) on the right."""
        cells = []
        for key, (_, width, form) in self.columns.items():
            value = row.get(key, "")
            text = value if isinstance(value, str) else format(value, form)
            cells.append(text.rjust(width) if form else text.ljust(width))
        print("  ".join(cells).rstrip(), flush=True)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.show(row)

    def finish(self) -> None:
        """Print the facts of the end, and write --json."""
        spent = [now - then for now, then in zip(processor_times(), self.times)]
        if len(spent) >= STEAL and any(spent):
            self.machine["steal"] = f"{spent[STEAL - 1] / sum(spent):.1%}"
        print()
        self.tell(self.told)
        if self.path is not None:
            content = {"command": self.command, "machine": self.machine, "rows": self.rows}
            atomic_write_text(self.path, json.dumps(content, indent=1) + "\n")

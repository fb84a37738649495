"""Parts of the GPU's benchmark as processes with a time limit; what they found, as a table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LEAST = 5  # seconds that must be left for a part to be begun
Row = dict[str, Any]


class Run:
    """The parts so far: their rows, which are saved after each part, and the time that is left."""

    def __init__(self, package: Path, seconds: float, save: Callable[[list[Row]], None]) -> None:
        self.end = time.monotonic() + seconds
        self.rows: list[Row] = []
        self.save = save
        self.environment = os.environ | {
            "PYTHONPATH": f"{package}:{ROOT}",
            "PYTHONUNBUFFERED": "1",
            "MINILLM_KERNELS": "auto",  # the package has no extension for the CPU
        }

    def command(self, part: str, command: list[str], limit: float) -> tuple[str | None, str]:
        """Run it; its rows are kept, its other lines shown. None if it worked, else why not; and
        the last of those lines."""
        left = self.end - time.monotonic()
        if left < LEAST:
            return "no time was left", ""
        seconds = min(limit, left)
        print(f"== {part}, at most {seconds:.0f} s", flush=True)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        late = threading.Event()

        def stop() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, stop)
        timer.start()
        last = ""
        try:
            for line in process.stdout or ():
                last = self.take(part, line) or last
            code = process.wait()
        except BaseException:
            stop()  # it would go on in its own session
            process.wait()
            raise
        finally:
            timer.cancel()
        if late.is_set():
            return f"stopped after {seconds:.0f} s", last
        return (None if code == 0 else last or f"exit code {code}"), last

    def take(self, part: str, line: str) -> str:
        """Keep a row; show any other line, and give it back unless it is empty."""
        if line.startswith("row {"):
            row = {"part": part} | json.loads(line.removeprefix("row "))
            self.rows.append(row)
            print("   " + " | ".join(cells(row)), flush=True)
            return ""
        print("   " + line.rstrip(), flush=True)
        return line.strip()

    def measure(self, part: str, command: list[str], limit: float) -> bool:
        """Run a part that prints rows; whether it worked. That it did not is a row."""
        error, _ = self.command(part, command, limit)
        if error is not None:
            self.told(part, part, error, False)
        self.save(self.rows)
        return error is None

    def check(
        self, part: str, what: str, command: list[str], limit: float, needed: str = ""
    ) -> bool:
        """Run what works or not, which is a row: it did if its last line has `needed` in it."""
        error, last = self.command(what, command, limit)
        if error is None and needed not in last:
            error = f"nothing was tested: {last}"
        self.told(part, what, error, error is None)
        self.save(self.rows)
        return error is None

    def told(self, part: str, what: str, error: str | None, passed: bool | None) -> None:
        """A row without a figure."""
        self.rows.append({"part": part, "what": what, "error": error, "passed": passed})
        if error is not None:
            print(f"   {what}: {error}", flush=True)

    def limits(self) -> str:
        """What the part `limits` found, as JSON."""
        found = (row for row in self.rows if row["part"] == "limits" and "ours" in row)
        return json.dumps({row["what"]: row["ours"] for row in found})


def cells(row: Row) -> list[str]:
    """A row of the table: what, ours, the others', how it compares, what is needed, whether so."""
    passed = {True: "yes", False: "NO", None: ""}[row["passed"]]
    if "error" in row:
        return [row["what"], row["error"] or "passed", "", "", "", passed]
    number = "{:.4g}".format
    others = ", ".join(f"{name} {number(value)}" for name, value in row["rivals"].items())
    got = "" if row["got"] is None else f"{number(row['got'])} {row['measure']}"
    needed = "" if row["needed"] is None else f"{'≤' if row['at_most'] else '≥'} {row['needed']:g}"
    return [row["what"], f"{number(row['ours'])} {row['unit']}", others, got, needed, passed]


def table(rows: list[Row]) -> str:
    """Markdown."""
    heads = ["what", "minillm", "PyTorch", "compared", "needed", "reached"]
    lines = [heads, ["---"] * len(heads), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

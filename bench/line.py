"""A model in a process of its own that reads and writes tokens: the two ends of its line.

The far end needs nothing but the standard library and what the model itself needs, so that it can
run in another interpreter than the benchmark.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]


class Decoder(Protocol):
    """What a far end has to be."""

    def read(self, ids: list[int], anew: bool) -> Any:
        """Logits (V,) after the last of `ids`, which follow what was read, or begin a text."""


def serve(build: Callable[[dict[str, Any]], Decoder]) -> None:
    """Answer every line of standard input, with a model built from the first argument."""
    out = sys.stdout
    sys.stdout = sys.stderr  # what libraries print
    decoder = build(json.loads(sys.argv[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        begin = time.perf_counter()
        logits = decoder.read(asked["ids"], True)
        found = [int(logits.argmax())]
        read = time.perf_counter()
        for _ in range(asked["more"]):
            logits = decoder.read(found[-1:], False)
            found.append(int(logits.argmax()))
        answer = {"ids": found, "read_s": read - begin, "more_s": time.perf_counter() - read}
        if asked["logits"]:
            answer["logits"] = [float(x) for x in logits]
        out.write(json.dumps(answer) + "\n")
        out.flush()


class Process:
    """The near end. `module` is run by `python`, which may lie in another environment."""

    def __init__(
        self,
        name: str,
        python: str,
        module: str,
        options: Mapping[str, Any],
        changes: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.begin = time.perf_counter()
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps(dict(options))],
            cwd=ROOT,
            env=os.environ | (changes or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def __call__(self, ids: list[int], more: int = 0, logits: bool = False) -> dict[str, Any]:
        """Read `ids` as a new text and write `more` tokens after the first that follows.

        Their ids, seconds for reading and writing, and those since the process began; RuntimeError
        with its last words if it is gone.
        """
        line = json.dumps({"ids": ids, "more": more, "logits": logits})
        try:
            self._process.stdin.write(line + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
            answer = self._process.stdout.readline()  # type: ignore[union-attr]
        except OSError:
            answer = ""
        if not answer:
            words = self._process.communicate()[1].strip().splitlines()
            raise RuntimeError(f"{self.name}: {words[-1] if words else 'its process ended'}")
        return json.loads(answer) | {"since_start_s": time.perf_counter() - self.begin}

    def resident_mb(self) -> dict[str, float]:
        """Resident memory now and at its peak, 10^6 bytes; nothing where there is no /proc."""
        try:
            path = Path(f"/proc/{self._process.pid}/status")
            status = path.read_text(encoding="ascii", errors="replace")
        except OSError:
            return {}
        kib = {key: int(value) for key, value in re.findall(r"(Vm\w+):\s+(\d+) kB", status)}
        return {"rss_mb": kib["VmRSS"] * 1.024e-3, "peak_rss_mb": kib["VmHWM"] * 1.024e-3}

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

"""Time whole commands from the start of a process to its end: the first token from a cold start.

    python -m bench.cold MODEL.gguf [--against llama.cpp --peer-python FILE] [--rounds 10]

The page cache is warm (a first round is not counted), bytecode is compiled, nothing else is kept.
`import numpy` is timed in the same rounds: no Python program that uses it starts faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

from bench.line import Process

PROMPT = (
    "The history of the steam engine begins long before the industrial revolution, with small "
    "machines that showed that hot steam can move things, and it goes on with"
)
TOKENS = 32  # of a prompt of another tokenizer
Figures = dict[str, float]


def command(words: list[str]) -> Figures:
    """Seconds of wall clock and of processors, and the peak of resident memory, of a process."""
    begin = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"cold: {words[1:3]} ended with {process.returncode}, 0 is needed")
    used = usage.ru_utime + usage.ru_stime
    return {"wall": seconds, "cpu": used, "mb": usage.ru_maxrss * 1.024e-3}


def llama(python: str, path: str, threads: int) -> Figures:
    """The same of llama.cpp, until it has read a prompt and given a token."""
    given = {"path": path, "threads": threads, "context": 2048}
    before = os.times()
    with closing(Process("llama.cpp", python, "bench.peer_llama", given)) as process:
        seconds = process(list(range(100, 100 + TOKENS)))["since_start_s"]
        peak = process.resident_mb().get("peak_rss_mb", float("nan"))
    after = os.times()
    used = after.children_user + after.children_system
    return {
        "wall": seconds,
        "cpu": used - before.children_user - before.children_system,
        "mb": peak,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cold", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--against", choices=("llama.cpp",))
    parser.add_argument("--peer-python", default=sys.executable)
    options = parser.parse_args()
    ours = [sys.executable, "-m", "minillm"]
    generate = [*ours, "generate", options.model, "--prompt", options.prompt, "--max-tokens", "1"]
    starts: dict[str, Callable[[], Figures]] = {
        "import numpy": partial(command, [sys.executable, "-c", "import numpy"]),
        "minillm --help": partial(command, [*ours, "--help"]),
        "minillm info": partial(command, [*ours, "info", options.model]),
        "minillm generate": partial(command, [*generate, "--threads", str(options.threads)]),
    }
    if options.against:
        starts["llama.cpp"] = partial(llama, options.peer_python, options.model, options.threads)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    rounds = [{name: start() for name, start in starts.items()} for _ in range(options.rounds + 1)]
    print(f"{'':18}{'best s':>8}{'median s':>10}{'CPU s':>8}{'median':>8}{'peak MB':>9}")
    for name in starts:
        wall, cpu, mb = ([row[name][key] for row in rounds[1:]] for key in ("wall", "cpu", "mb"))
        print(
            f"{name:18}{min(wall):8.3f}{statistics.median(wall):10.3f}{min(cpu):8.3f}"
            f"{statistics.median(cpu):8.3f}{max(mb):9.0f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

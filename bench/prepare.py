"""What it costs to prepare much text: time, speed and the memory of all processes together.

    python -m bench.prepare --megabytes 250 500 1000 --folder DIR FILE...

Records are made of lines of the FILEs, drawn and with words exchanged, so that few are alike; they
and what is prepared of them lie in DIR (3.5 times the largest size) and are deleted in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

OPTIONS = "--dedup near --min-quality 0.8 --scrub-pii".split()
LINES, EXCHANGED = (12, 80), 6  # lines of a record at least and at most, words in it
LOOK = 0.2  # seconds between two looks at the memory


def records(texts: Sequence[str], size: int, seed: int = 0) -> Iterator[str]:
    """JSON lines of `size` bytes in all, each a text of its own."""
    chance = random.Random(seed)
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    words = sorted({word for line in lines for word in line.split() if word.isalpha()})
    written = 0
    while written < size:
        text = "\n".join(chance.choices(lines, k=chance.randint(*LINES)))
        for word in chance.sample(text.split(), EXCHANGED):
            text = text.replace(word, chance.choice(words))
        row = json.dumps({"text": text}, ensure_ascii=False) + "\n"
        written += len(row.encode("utf-8"))
        yield row


def resident(root: int) -> int:
    """Bytes that a process and all below it hold; what they share is counted for each."""
    below: dict[int, list[int]] = {}
    pages: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            _, _, fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")
        except OSError:  # it has ended
            continue
        parent, held = int(fields.split()[1]), int(fields.split()[21])
        below.setdefault(parent, []).append(int(folder.name))
        pages[int(folder.name)] = held
    found, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        found += pages.get(process, 0)
        waiting += below.get(process, [])
    return found * os.sysconf("SC_PAGE_SIZE")


class Peak(threading.Thread):
    """The most that a process and those below it were seen to hold, until it ends."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self.process, self.bytes = process, 0

    def run(self) -> None:
        while self.process.poll() is None:
            self.bytes = max(self.bytes, resident(self.process.pid))
            time.sleep(LOOK)


def cpu_seconds() -> float:
    """Of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def prepared(words: Sequence[str]) -> tuple[float, float, int]:
    """Wall seconds, processor seconds and the highest memory of a command."""
    begin, before = time.perf_counter(), cpu_seconds()
    process = subprocess.Popen([sys.executable, "-m", "minillm", *words])
    peak = Peak(process)
    peak.start()
    peak.join()
    if process.returncode:
        raise SystemExit(f"bench.prepare: minillm ended with {process.returncode}, 0 is needed")
    return time.perf_counter() - begin, cpu_seconds() - before, peak.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--megabytes", nargs="+", type=int, default=[250, 500, 1000], metavar="N")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    arguments = parser.parse_args()
    texts = [path.read_text(encoding="utf-8") for path in arguments.files]
    arguments.folder.mkdir(parents=True)
    try:
        print("| text | records | wall | processor | a core does | all processes |", flush=True)
        print("| --- | --- | --- | --- | --- | --- |", flush=True)
        for size in arguments.megabytes:
            _measure(texts, size, arguments.folder, arguments.workers)
    finally:
        shutil.rmtree(arguments.folder)


def _measure(texts: Sequence[str], size: int, folder: Path, workers: int) -> None:
    source, count = folder / "records.jsonl", 0
    with open(source, "w", encoding="utf-8") as file:
        for row in records(texts, size * 10**6):
            file.write(row)
            count += 1
    tokenizer = folder / "tokenizer"
    if not tokenizer.exists():
        sample = folder / "sample.txt"
        sample.write_text("".join(texts), encoding="utf-8")
        prepared([*"tokenizer train --kind bpe --vocab-size 4096 --out".split(), str(tokenizer),
                  str(sample)])  # fmt: skip
    out = ["--out", str(folder / "out"), "--tokenizer", str(tokenizer), "--workers", str(workers)]
    wall, cpu, peak = prepared(["data", "prepare", str(source), *out, *OPTIONS])
    print(
        f"| {size} MB | {count:,} | {wall:.0f} s | {cpu:.0f} s | {size / cpu:.2f} MB/s | "
        f"{peak / 1e6:.0f} MB |",
        flush=True,
    )
    shutil.rmtree(folder / "out")


if __name__ == "__main__":
    main()

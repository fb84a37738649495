"""Whether --max-memory is obeyed: what is predicted beside what the operating system saw.

    python -m bench.memory TEXT [--smollm2 MODEL.gguf] [--only NAME ...] [--json FILE]

Each case is a process of its own that tunes on TEXT for a few steps, with a validation, a sample
and saves, under a limit. Exit code 1 where a peak is over its limit, or a prediction off by more
than a tenth. SmolLM2-135M is left out where its file is not given.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from minillm.models import GPT2, GPT2Config
from minillm.models.folder import save_model
from minillm.tokenizers import ByteTokenizer
from minillm.training.tuning_memory import limit_of

ALLOWED = 0.1  # of the measured peak, that a prediction may be off
LOOP = "--steps 3 --eval-every 3 --save-every 3 --sample-tokens 8 --eval-examples 8 --limit 64"
SIZES = {  # vocabulary, layers, heads, width
    "10M": (257, 6, 6, 384),
    "124M": (50257, 12, 12, 768),
}


class Case(NamedTuple):
    """A base, its limit, and the options of the run."""

    base: str
    limit: str
    words: str

    @property
    def name(self) -> str:
        return f"{self.base} {self.words}"


CASES = (
    Case("10M", "1G", "--method full --context 256 --batch 16"),
    Case("10M", "400M", "--method full --context 256 --batch 16"),
    Case("10M", "300M", "--method lora --context 256 --batch 16"),
    Case("124M", "3G", "--method full --context 256 --batch 4"),
    Case("124M", "2G", "--method full --context 256 --batch 4 --optimizer adamw8bit"),
    Case("124M", "1200M", "--method last-n --context 256 --batch 4"),
    Case("SmolLM2", "700M", "--method qlora --context 512 --batch 4"),
    Case("SmolLM2", "400M", "--method qlora --context 512 --batch 1"),
    Case("SmolLM2", "1200M", "--method lora --context 256 --batch 4"),
)


def base(folder: Path, name: str) -> Path:
    """A GPT-2 of random weights."""
    place = folder / name
    if not place.exists():
        vocabulary, layers, heads, width = SIZES[name]
        config = GPT2Config(vocab_size=vocabulary, n_positions=256, n_embd=width, n_layer=layers,
                            n_head=heads, eos_token_id=256)  # fmt: skip
        save_model(place, GPT2(config), ByteTokenizer())
    return place


def measured(words: list[str]) -> tuple[int, str]:
    """The highest resident memory of a run of minillm in bytes, and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "minillm", *words],
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"bench.memory: the run failed: {said[-400:]}")
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024), said


def run(case: Case, model: Path, text: Path, folder: Path) -> dict[str, object]:
    out = folder / "run"
    peak, said = measured(
        [
            *("finetune", str(model), str(text), "--out", str(out), "--max-memory", case.limit),
            *case.words.split(),
            *LOOP.split(),
        ]
    )
    shutil.rmtree(out)
    line = re.search(r"^memory: about (.+?) of \S+ examples (.+)$", said, re.MULTILINE)
    assert line is not None
    number, unit = line[1].split()
    predicted = limit_of(number + unit[0])
    return {
        "run": case.name,
        "limit": limit_of(case.limit),
        "predicted": predicted,
        "peak": peak,
        "off": predicted / peak - 1,
        "how": line[2],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, metavar="TEXT")
    parser.add_argument("--smollm2", type=Path, metavar="GGUF")
    parser.add_argument("--only", nargs="+", metavar="BASE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    print(
        "| run | limit | predicted | peak | off | chosen |\n| --- | --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory(prefix="minillm-memory-") as name:
        for case in CASES:
            if arguments.only and case.base not in arguments.only:
                continue
            if case.base not in SIZES and arguments.smollm2 is None:
                continue
            place = Path(name)
            model = base(place, case.base) if case.base in SIZES else arguments.smollm2
            row = run(case, model, arguments.text, place)
            rows.append(row)
            limit, predicted, peak = (row[key] / 1e6 for key in ("limit", "predicted", "peak"))
            print(
                f"| {row['run']} | {limit:.0f} MB | {predicted:.0f} MB | {peak:.0f} MB | "
                f"{row['off']:+.1%} | {row['how']} |",
                flush=True,
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    bad = [row["run"] for row in rows if row["peak"] > row["limit"] or abs(row["off"]) > ALLOWED]
    if bad:
        print(f"over the limit, or predicted with more than {ALLOWED:.0%} of error: {bad}")
    return bool(bad)


if __name__ == "__main__":
    raise SystemExit(main())

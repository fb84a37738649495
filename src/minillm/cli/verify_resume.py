"""Prove on this machine that a resumed run equals an uninterrupted one, byte for byte."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from minillm.cli.machine_flags import add_device
from minillm.cli.main import FAILED, OK
from minillm.quantities import counted

CONTEXT, BATCH, ACCUMULATE = 32, 3, 3
COMPARED = ("model.safetensors", "config.json", "tokenizer.json")
CLOCKED = ("tokens_per_s", "elapsed_s", "rss_mb", "device_mb")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="text to train on (a built-in one)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="steps of the run (20)")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace) -> int:
    steps = arguments.steps
    if steps < 2:
        raise ValueError(f"steps: {steps}, 2 or more is needed")
    with tempfile.TemporaryDirectory(prefix="minillm-") as name:
        folder = Path(name)
        text = Path(arguments.file) if arguments.file else _text(folder)
        on = ["--device", arguments.device or "cpu"]
        straight = _train(folder / "straight", text, steps, *on, "--threads", "1")
        cut = ["--stop-after", str(steps // 2)]
        halves = _train(folder / "halves", text, steps, *on, "--threads", "2", *cut)
        _minillm("train", "--resume", str(halves), "--threads", "2")
        problems = differences(straight, halves, steps)
        epochs = _epochs(straight, steps // 2)
    if arguments.json:
        found = {"equal": not problems, "different": problems, "steps": steps, "epochs": epochs}
        found["device"] = arguments.device or "cpu"
        print(json.dumps(found, ensure_ascii=False))
        return FAILED if problems else OK
    for problem in problems:
        print(f"different: {problem}")
    if problems:
        return FAILED
    print(
        f"equal: {steps} steps {_on(arguments.device, 1)}, and {steps // 2} + "
        f"{steps - steps // 2} steps in two processes {_on(arguments.device, 2)}, give the same "
        "weights, moments, counters and metrics, bit for bit "
        f"(dropout 0.1, {ACCUMULATE} accumulated batches, cut after {epochs:.2f} epochs)"
    )
    return OK


def _on(device: str | None, threads: int) -> str:
    """Where a run computed, in words."""
    return f"on {counted(threads, 'thread')}" if device in (None, "cpu") else f"on {device}"


def _epochs(run: Path, steps: int) -> float:
    """How often all windows were seen after `steps`."""
    from minillm.data import TokenFile, Windows

    tokens = TokenFile.open(run / "training" / "train.bin")
    return steps * BATCH * ACCUMULATE / Windows(tokens, CONTEXT, seed=0).per_epoch


def _text(folder: Path) -> Path:
    """A few kilobytes that repeat no line."""
    lines = [
        f"{n} apples and {n * n % 97} pears make {n + n * n % 97} pieces of fruit.\n"
        for n in range(300)
    ]
    path = folder / "text.txt"
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
    return path


def _train(out: Path, text: Path, steps: int, *words: str) -> Path:
    options = (
        f"--layers 2 --heads 2 --width 32 --context {CONTEXT} --batch {BATCH} "
        f"--accumulate {ACCUMULATE} --dropout 0.1 --tokenizer char --eval-every 5 --save-every 5 "
        "--precision f32"
    ).split()
    options += ["--out", str(out), "--steps", str(steps)]
    _minillm("train", str(text), *options, *words)
    return out


def _minillm(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "minillm", *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"verify-resume: a training run failed: {done.stderr.strip()[-300:]}")


def differences(straight: Path, halves: Path, steps: int) -> list[str]:
    """Names of what two runs of `steps` steps do not have in common; clocks are not compared."""
    from minillm.training import metrics, state

    names = [*COMPARED, str(state.path_of(Path("training"), steps))]
    problems = [
        name for name in names if (straight / name).read_bytes() != (halves / name).read_bytes()
    ]
    rows = [
        [
            {key: value for key, value in row.items() if key not in CLOCKED}
            for row in metrics.read(run / "metrics.jsonl")
        ]
        for run in (straight, halves)
    ]
    if rows[0] != rows[1]:
        problems.append("metrics.jsonl")
    return problems

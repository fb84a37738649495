"""Kill training at random moments and in the middle of saving, and prove that it always goes on.

    python -m bench.crash --kills 50 --seed 0 FILE

One run is started, killed (SIGKILL) and resumed again and again. After each kill the newest save
must be whole, no more than the steps since it may be lost, and a new process must go on from it.
When the run ends, it must equal an uninterrupted one byte for byte. Exit code 1 if anything fails.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from minillm.cli.verify_resume import differences
from minillm.formats import safetensors
from minillm.training import metrics

SAVE_EVERY = 2
OPTIONS = (
    "--layers 1 --heads 2 --width 32 --context 32 --batch 4 --accumulate 2 --dropout 0.1 "
    f"--tokenizer char --eval-every 7 --save-every {SAVE_EVERY} --sample-tokens 8 --threads 1 "
    "--precision f32"
).split()
SHARE = 1 / 3  # of the training, the longest that a process trains before it is killed
MOST_SAVES = 20  # that a process may begin before it is killed in one
ON = 3  # steps to go on after a kill


class Failed(Exception):
    """The run did not survive."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill training and prove that it goes on.")
    parser.add_argument("file", type=Path, metavar="FILE", help="text to train on")
    parser.add_argument("--kills", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="length of the run")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="minillm-crash-") as name:
        chance = random.Random(arguments.seed)
        trial = Trial(Path(name), arguments.file.resolve(), arguments.steps, chance)
        try:
            tally = trial.run(arguments.kills)
        except Failed as failure:
            print(f"failed after {sum(trial.tally.values())} kills: {failure}")
            return 1
    print(
        f"{arguments.kills} kills ({tally['random']} at random, {tally['saving']} while saving): "
        f"{tally['random'] + tally['saving'] - trial.too_early} went on from the last whole save, "
        f"{trial.too_early} came before the first; {trial.finished} finished runs equal an "
        f"uninterrupted one byte for byte ({time.perf_counter() - begin:.0f} s)"
    )
    return 0


class Trial:
    """One run under attack, and the uninterrupted one that it must equal."""

    def __init__(self, folder: Path, file: Path, steps: int, chance: random.Random) -> None:
        self.file, self.steps, self.chance = file, steps, chance
        self.straight, self.victim = folder / "straight", folder / "victim"
        self.tally: Counter[str] = Counter()
        self.too_early = self.finished = 0

    def run(self, kills: int) -> Counter[str]:
        starting, training = self.train_straight()
        while sum(self.tally.values()) < kills:
            how = "saving" if sum(self.tally.values()) % 2 else "random"
            process = started(self.next_words())
            if how == "saving":
                done = self.kill_while_saving(process)
            else:
                longest = starting + SHARE * training
                done = _kill_after(process, self.chance.uniform(starting / 2, longest))
            if done:
                self.tally[how] += 1
                self.check_after_kill()
            else:
                completed(process)
                self.check_finished()
        if self.victim.exists():
            completed(started(self.next_words()))
            self.check_finished()
        return self.tally

    def train_straight(self) -> tuple[float, float]:
        """Train without interruption; seconds before the first save, and after it."""
        begin = time.perf_counter()
        process = started(self.new(self.straight))
        while not list(self.straight.glob("training/state-*.safetensors")):
            if process.poll() is not None:
                break
        first = time.perf_counter()
        completed(process)
        return first - begin, time.perf_counter() - first

    def new(self, folder: Path) -> list[str]:
        words = ["train", str(self.file), "--out", str(folder), "--steps", str(self.steps)]
        return words + OPTIONS

    def next_words(self) -> list[str]:
        if self.victim.exists():
            return ["train", "--resume", str(self.victim)]
        return self.new(self.victim)

    def kill_while_saving(self, process: subprocess.Popen[str]) -> bool:
        """Kill at one of the next moments when a file is half written; False if it ended before."""
        wanted, seen = self.chance.randint(1, MOST_SAVES), set()
        while process.poll() is None:
            for pattern in ("training/state-*.tmp", "model.safetensors.*.tmp"):
                seen |= set(self.victim.glob(pattern))
            if len(seen) >= wanted:
                return killed(process)
        return False

    def check_after_kill(self) -> None:
        """The newest save is whole, little is lost, and a new process goes on from it."""
        saves = sorted((self.victim / "training").glob("state-*.safetensors"))
        if not saves:
            self.too_early += 1
            shutil.rmtree(self.victim, ignore_errors=True)
            return
        for path in (*saves, self.victim / "model.safetensors"):
            if path.exists():
                try:
                    safetensors.verify(path)
                except ValueError as error:
                    raise Failed(f"a file was torn: {error}") from error
        step = int(saves[-1].stem.removeprefix("state-"))
        rows = self.victim / "metrics.jsonl"
        reached = (
            max((row["step"] for row in metrics.read(rows)), default=0) if rows.exists() else 0
        )
        if reached - step > SAVE_EVERY:
            raise Failed(f"step {reached} was reached, but step {step} is the last that was saved")
        words = ["--stop-after", str(min(step + ON, self.steps))]
        said = completed(started(["train", "--resume", str(self.victim), *words]))
        if f"resumed {self.victim} after step {step} of {self.steps}\n" not in said:
            raise Failed(f"did not go on from step {step}: {said[-300:]}")
        if list(self.victim.rglob("*.tmp")):
            raise Failed("a half-written file was left behind")

    def check_finished(self) -> None:
        """The finished run equals the uninterrupted one; the next begins anew."""
        problems = differences(self.straight, self.victim, self.steps)
        if problems:
            raise Failed(f"different from an uninterrupted run: {', '.join(problems)}")
        self.finished += 1
        shutil.rmtree(self.victim)


def started(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "minillm", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )


def completed(process: subprocess.Popen[str]) -> str:
    """What the process said, once it has ended well."""
    said = process.communicate()[1]
    if process.returncode:
        raise Failed(f"exit code {process.returncode}: {said.strip()[-300:]}")
    return said


def _kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return killed(process)
    return False


def killed(process: subprocess.Popen[str]) -> bool:
    """Whether the process still lived to be killed."""
    process.kill()
    if process.wait() >= 0:
        return False
    process.communicate()
    return True


if __name__ == "__main__":
    raise SystemExit(main())

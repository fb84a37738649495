"""Runs small enough for tests, and the ways to start them."""

import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minillm import kernels
from minillm.cli.main import main
from minillm.training import metrics, preflight
from minillm.training.settings import Settings
from minillm.training.trainer import Trainer

SMALL = {
    "layers": 1,
    "heads": 2,
    "width": 16,
    "context": 16,
    "batch": 4,
    "tokenizer": "char",
    "precision": "f32",  # left open it would depend on the machine, and on its load
}
BRIEF = {"steps": 12, "eval_every": 4, "save_every": 4, "sample_tokens": 8}
CUT_RUN = {  # every kind of state: dropout, accumulation, a best model, saves between evaluations
    "steps": 16,
    "batch": 2,
    "accumulate": 2,
    "dropout": 0.1,
    "eval_every": 3,
    "save_every": 5,
}
CLOCKED = ("tokens_per_s", "elapsed_s", "rss_mb", "device_mb")


def story(lines: int = 120, seed: int = 1) -> str:
    """Sentences of common words, about 37 characters each, that do not repeat."""
    choose = random.Random(seed).choice
    words = "the a cat dog sat ran on under big red mat tree and then saw it".split()
    return "".join(" ".join(choose(words) for _ in range(9)) + ".\n" for _ in range(lines))


def written(path: Path, text: str | bytes | None = None) -> Path:
    """`path`, holding `text` (a story)."""
    content = story() if text is None else text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def flags(**options: object) -> list[str]:
    """Options as words of a command line; those of a small and brief run stand unless changed."""
    words = []
    for name, value in (SMALL | BRIEF | options).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def minillm(*words: object) -> int:
    """Run a command line in this process, leaving the process as it was; the exit code."""
    threads, environ, device = kernels.threads(), dict(os.environ), kernels.get_default_device()
    try:
        with warnings.catch_warnings(), np.errstate():
            return main([str(word) for word in words])
    except SystemExit as leaving:
        return leaving.code  # type: ignore[return-value]
    finally:
        kernels.set_threads(threads)
        kernels.set_default_device(device)
        os.environ.clear()
        os.environ.update(environ)


def starter(folder: Path, monkeypatch: Any, text: str, **options: object) -> Callable[..., int]:
    """A function that trains on `text` in `folder`: start(name of the run, *words, **options)."""
    monkeypatch.chdir(folder)
    written(folder / "s.txt", text)

    def start(name: str, *words: object, **changed: object) -> int:
        return minillm("train", "s.txt", "--out", name, *flags(**(options | changed)), *words)

    return start


def command(*words: object) -> list[str]:
    """The words that start minillm in a process of its own."""
    return [sys.executable, "-m", "minillm", *map(str, words)]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, in which its minillm is found."""
    source = Path(preflight.__file__).parents[2]
    return os.environ | {"PYTHONPATH": str(source), "PYTHONIOENCODING": "utf-8"} | changes


def process(*words: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run minillm in a process of its own, with `changes` to the environment."""
    return subprocess.run(
        command(*words),
        capture_output=True,
        encoding="utf-8",
        env=environment(**changes),
        check=False,
        timeout=60,
    )


def limited(size: int, *words: object) -> subprocess.CompletedProcess[str]:
    """Run minillm where no file can grow beyond `size` bytes."""
    import resource

    return subprocess.run(
        command(*words),
        capture_output=True,
        encoding="utf-8",
        env=environment(),
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


def trainer(folder: Path, text: str | None = None, **options: object) -> Trainer:
    """A trainer after its preflight, at step 0."""
    source = written(folder / "text.txt", text)
    settings = Settings(**(SMALL | BRIEF | {"dropout": 0.0} | options))  # type: ignore[arg-type]
    return preflight.start([str(source)], settings, folder / "run", lambda line: None)


def arrays_of(trained: Trainer) -> dict[str, np.ndarray]:
    """Copies of all weights and moments by name."""
    found = {name: array.copy() for name, array in trained.model.state_dict().items()}
    for place, arrays in enumerate(trained.optimizer.state):
        found |= {f"{kind} {place}": array.copy() for kind, array in arrays.items()}
    return found


def same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether two dicts hold the same names and, byte for byte, the same arrays."""
    return one.keys() == other.keys() and all(
        one[name].tobytes() == other[name].tobytes() for name in one
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` with its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def result(folder: Path):
    """All that a run leaves behind but for clocks and the older save."""
    files = {
        name: content
        for name, content in tree(folder).items()
        if name.startswith(("model", "adapter", "tokenizer", "config", "training/samples"))
        or name.startswith("training/train")
    }
    files["state"] = max(folder.glob("training/state-*")).read_bytes()
    rows = [
        {key: value for key, value in row.items() if key not in CLOCKED}
        for row in metrics.read(folder / "metrics.jsonl")
    ]
    return files, rows

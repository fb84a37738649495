"""The pairs of a run: read, held out, measured in tokens, kept beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minillm.data.tables import columns_of
from minillm.formats import hf
from minillm.quantities import counted
from minillm.tasks.translation import pairs
from minillm.tasks.translation.objective import rows_of
from minillm.tasks.translation.pairs import Pair, Split
from minillm.tasks.translation.settings import TranslationSettings
from minillm.tokenizers import Tokenizer
from minillm.training.run_folder import INNER, Say

FILE = "pairs.json"


def read(files: Sequence[str], settings: TranslationSettings, say: Say) -> Split:
    """The pairs to learn from and those to validate on; no source is on both sides."""
    columns = columns_of(settings.columns)

    def of(paths: Sequence[str]) -> list[Pair]:
        found: list[Pair] = []
        for path in paths:
            examples, notices = pairs.read(path, columns, settings.on_bad)
            for notice in notices:
                say(f"data: {notice}")
            found += examples
        return found

    everything = of(files)
    if settings.val is not None:
        val = of([settings.val])
        train = pairs.apart(everything, val)
        split = Split(train, val, len(everything) - len(train))
    elif settings.val_last is not None:
        split = pairs.last(everything, settings.val_last)
    else:
        split = pairs.drawn(everything, settings.val_fraction, settings.seed)
    if split.left_out:
        say(f"data: {counted(split.left_out, 'pair')} left out: the source is among those held out")
    if not split.train:
        raise ValueError(
            "train: no pair to learn from, at least 1 whose source is not held out is needed"
        )
    return split


def fitting(split: Split, tokenizer: Tokenizer, longest: int, say: Say) -> Split:
    """Those of at most `longest` tokens on each side; others are counted, none is cut."""

    def short(part: Sequence[Pair], name: str) -> list[Pair]:
        kept = [pair for pair in part if max(map(len, rows_of(tokenizer, pair))) <= longest]
        lost = len(part) - len(kept)
        if lost:
            say(f"data: {counted(lost, 'pair')} {name} left out: longer than {longest} tokens")
        return kept

    train, val = short(split.train, "to learn from"), short(split.val, "to validate on")
    if not train:
        raise ValueError(
            f"max-length: {longest}, but all {counted(len(split.train), 'pair')} to learn from are "
            "longer; raise it"
        )
    say(f"data: {counted(len(train), 'pair')} to learn from, {len(val):,} to validate on")
    return Split(train, val, split.left_out)


def save(folder: Path, split: Split) -> None:
    """Write them into the folder of a run."""
    hf.write_json(folder / INNER / FILE, {"train": split.train, "val": split.val})


def load(folder: Path) -> Split:
    """The pairs of the run in `folder`."""
    content = hf.read_json(folder / INNER / FILE)
    train, val = ([Pair(*one) for one in content[name]] for name in ("train", "val"))
    return Split(train, val)

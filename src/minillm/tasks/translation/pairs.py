"""Texts and their translations: read, and held out so that no source is on both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from minillm.arrays import new_generator
from minillm.data.tables import Faults, read_rows
from minillm.quantities import counted
from minillm.tasks.examples import Read

COLUMNS = ("source", "target")


class Pair(NamedTuple):
    """A text and its translation."""

    line: int
    source: str
    target: str


class Split(NamedTuple):
    """Pairs to learn from, those held out, and how many were left out for the others' sake."""

    train: list[Pair]
    val: list[Pair]
    left_out: int = 0


def read(path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
    """Rows with the columns source and target, neither of them blank."""
    faults = Faults(path, on_bad)
    rows, notices = read_rows(path, COLUMNS, columns, faults)
    found = []
    for line, fields in rows:
        for name in COLUMNS:
            text = fields[name]
            if not isinstance(text, str) or not text.strip():
                empty = text is None or isinstance(text, str)
                kind = f"an empty {name}" if empty else f"no text as {name}"
                faults.found(line, kind, f"{name} is {text!r}", "a text")
                break
        else:
            found.append(Pair(line, fields["source"].strip(), fields["target"].strip()))
    if len(faults):
        notices = [*notices, str(faults)]
    if not found:
        told = f"; {faults}" if len(faults) else ""
        raise ValueError(f"read: {path} has no pair, at least 1 is needed{told}")
    return Read(found, notices)


def key(text: str) -> str:
    """What two texts have in common that differ in case and white space only."""
    return " ".join(text.casefold().split())


def apart(pairs: Sequence[Pair], held: Sequence[Pair]) -> list[Pair]:
    """The pairs whose source is none of those held out."""
    sources = {key(pair.source) for pair in held}
    return [pair for pair in pairs if key(pair.source) not in sources]


def last(pairs: Sequence[Pair], count: int) -> Split:
    """The last `count` held out; earlier pairs of the same sources are in neither part."""
    if count >= len(pairs):
        raise ValueError(
            f"val-last: {count} of {counted(len(pairs), 'pair')}, at least 1 to learn from is "
            "needed"
        )
    before, val = list(pairs[:-count]), list(pairs[-count:])
    train = apart(before, val)
    return Split(train, val, len(before) - len(train))


def drawn(pairs: Sequence[Pair], fraction: float, seed: int) -> Split:
    """A share of the pairs held out, drawn from the seed; those of one source stay together."""
    of_source: dict[str, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        of_source[key(pair.source)].append(place)
    groups, size = list(of_source.values()), int(len(pairs) * fraction)
    held: set[int] = set()
    for number in new_generator(seed).permutation(len(groups)).tolist():
        own = groups[number]
        if len(held) + len(own) <= size:
            held.update(own)
    train = [pair for place, pair in enumerate(pairs) if place not in held]
    return Split(train, [pairs[place] for place in sorted(held)])

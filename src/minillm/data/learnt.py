"""Examples to learn from as arrays: ids, and which of them are learnt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minillm.formats import safetensors
from minillm.quantities import counted

IGNORED = -100
FILE = "examples.safetensors"


class Batch(NamedTuple):
    """inputs and targets (B, T) int64; what is not learnt and what is padded is -100."""

    inputs: np.ndarray
    targets: np.ndarray
    length: int  # ids that are no padding


@dataclass
class Examples:
    """Texts of ids, one after the other, `starts` (n + 1) saying where each begins.

    `more` holds numbers of each example, such as what a reference model says of it.
    """

    ids: np.ndarray
    learnt: np.ndarray
    starts: np.ndarray
    more: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Iterable[tuple[Sequence[int], Sequence[bool]]]) -> Examples:
        """From ids and whether each is learnt. What comes first has nothing before it to be told
        from: it is never a target."""
        ids, learnt, starts = [], [], [0]
        for text, flags in texts:
            ids.append(np.asarray(text, np.int32))
            learnt.append(np.asarray(flags, np.uint8))
            starts.append(starts[-1] + len(text))
        empty = [np.empty(0, np.int32)], [np.empty(0, np.uint8)]
        return cls(
            np.concatenate(ids or empty[0]),
            np.concatenate(learnt or empty[1]),
            np.asarray(starts, np.int64),
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    @property
    def targets(self) -> int:
        """Learnt ids in all."""
        return int(self.learnt.sum()) - int(self.learnt[self.starts[:-1]].sum())

    def text(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and flags of one example."""
        part = slice(self.starts[place], self.starts[place + 1])
        return self.ids[part], self.learnt[part]

    def batch(self, places: Sequence[int] | np.ndarray) -> Batch:
        """These examples side by side, padded on the right to the longest."""
        texts = [self.text(int(place)) for place in places]
        width = max(len(ids) for ids, _ in texts) - 1
        inputs = np.zeros((len(texts), width), np.int64)
        targets = np.full((len(texts), width), IGNORED, np.int64)
        for row, (ids, learnt) in enumerate(texts):
            inputs[row, : len(ids) - 1] = ids[:-1]
            targets[row, : len(ids) - 1] = np.where(learnt[1:], ids[1:], IGNORED)
        return Batch(inputs, targets, sum(len(ids) - 1 for ids, _ in texts))


class Fitted(NamedTuple):
    """An example that fits the context, and whether its beginning was cut; None if it cannot."""

    example: tuple[list[int], list[bool]] | None
    cut: bool = False


def fit(ids: list[int], learnt: list[bool], context: int) -> Fitted:
    """Cut from the left to context + 1 ids, keeping the last answer whole."""
    over = len(ids) - (context + 1)
    if not any(learnt[1:]):
        return Fitted(None)
    if over <= 0:
        return Fitted((ids, learnt))
    begin = (
        len(learnt) - next(n for n, flag in enumerate(reversed(learnt)) if not flag)
        if not all(learnt)
        else 0
    )
    if begin - 1 < over:  # the answer, or what it continues, would be cut
        return Fitted(None)
    return Fitted((ids[over:], learnt[over:]), True)


class Parts(NamedTuple):
    """What a run is tuned on and what it is validated on; both pairwise for preferences."""

    train: Examples
    val: Examples

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all ids, flags and numbers."""
        found = hashlib.sha256()
        for name, array in sorted(_arrays(self).items()):
            found.update(f"{name}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def lines_for_people(self, pairs: bool = False) -> list[str]:
        lines = []
        for name, part in zip(("training", "validation"), self):
            what = counted(len(part) // 2, "pair") if pairs else counted(len(part), "example")
            share = part.targets / max(1, len(part.ids))
            lines.append(
                f"{name}: {what}, {len(part.ids):,} tokens, {part.targets:,} of them learnt "
                f"({100 * share:.0f} %)"
            )
        return lines


def _arrays(parts: Parts) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for side, part in zip(("train", "val"), parts):
        arrays |= {f"{side}/{name}": getattr(part, name) for name in ("ids", "learnt", "starts")}
        arrays |= {f"{side}/more/{name}": array for name, array in part.more.items()}
    return arrays


def save(folder: Path, parts: Parts) -> None:
    """Write folder/examples.safetensors."""
    safetensors.write(folder / FILE, _arrays(parts), {"fingerprint": parts.fingerprint})


def load(folder: Path) -> Parts:
    """What `save` wrote, every byte checked; ValueError for a damaged file."""
    arrays, _ = safetensors.verify(folder / FILE)
    sides = []
    for side in ("train", "val"):
        own: dict[str, Any] = {
            name.removeprefix(f"{side}/"): array
            for name, array in arrays.items()
            if name.startswith(f"{side}/")
        }
        more = {name[5:]: array for name, array in own.items() if name.startswith("more/")}
        sides.append(Examples(own["ids"], own["learnt"], own["starts"], more))
    return Parts(*sides)

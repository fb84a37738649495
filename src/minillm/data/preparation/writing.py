"""Encoded documents to the shards of both sides of the split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...tokenizers import Tokenizer
from ..shards import ShardWriter
from .encoding import read_unit
from .mixture import included, passes
from .options import Options
from .selection import Catalogue, Selection

BLOCK = 1 << 20  # ids that are copied at once


@dataclass(frozen=True)
class Written:
    """The files of both sides, their ids; how often each source is read, and its training ids."""

    train: list[Path]
    val: list[Path]
    train_tokens: int
    val_tokens: int
    passes: np.ndarray
    of_group: np.ndarray


@dataclass
class Shards:
    """Writes the ids of `units`, (file, characters) each, as the selection and shares say.

    `shares` of the training tokens by source group, None to read each document once; `groups`
    (documents,) says which each is of.
    """

    folder: Path
    tokenizer: Tokenizer
    options: Options
    units: Sequence[Path]

    def write(
        self,
        catalogue: Catalogue,
        selection: Selection,
        groups: np.ndarray,
        shares: Sequence[float] | None,
        progress: Callable[[int], object],
    ) -> Written:
        """Write all shards; what shards of these names are there is replaced."""
        for old in (*self.folder.glob("train-*.bin"), *self.folder.glob("val-*.bin")):
            old.unlink()
        times = np.ones(1 if shares is None else len(shares))
        if selection.validation is None:
            if shares is not None:
                raise ValueError(
                    f"mix: {len(selection.firsts)} documents, at least 20 that differ are needed"
                )
            return self._tail(progress, times)
        training = ~selection.validation
        if shares is not None:
            times = passes(self._tokens(groups, training, len(shares)), shares)
        train, val = self._writer("train"), self._writer("val")
        hashes, wanted = catalogue["hash"][selection.firsts], times[groups]
        of_group = np.zeros(len(times), np.int64)
        with _closing(train, val):
            for turn in range(int(np.ceil(times.max()))):
                reads = training & included(hashes, wanted, turn)
                if shares is not None:
                    of_group += self._tokens(groups, reads, len(shares))
                for ids, documents in self._blocks():
                    if turn == 0:
                        val.write(ids[selection.validation[documents]])
                    train.write(ids[reads[documents]])
                    progress(len(ids))
        return Written(train.paths, val.paths, train.count, val.count, times, of_group)

    def _tail(self, progress: Callable[[int], object], times: np.ndarray) -> Written:
        """The end of all tokens is for validation."""
        total = sum(int(lengths.sum()) for _, _, lengths in map(read_unit, self.units))
        border = total - round(total * self.options.val_fraction)
        train, val = self._writer("train"), self._writer("val")
        with _closing(train, val):
            for ids, _ in self._blocks():
                room = max(0, border - train.count)
                train.write(ids[:room])
                val.write(ids[room:])
                progress(len(ids))
        return Written(train.paths, val.paths, train.count, val.count, times, np.zeros(1))

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All ids, some at a time, and the document that each is of."""
        for ids, documents, lengths in map(read_unit, self.units):
            ends = np.cumsum(lengths)
            for at in range(0, len(ids), BLOCK):
                end = min(len(ids), at + BLOCK)
                first, last = np.searchsorted(ends, (at, end - 1), side="right")
                inside = slice(first, last + 1)
                low = np.maximum(ends[inside] - lengths[inside], at)
                counts = np.minimum(ends[inside], end) - low
                yield ids[at:end], np.repeat(documents[inside], counts)

    def _tokens(self, groups: np.ndarray, training: np.ndarray, count: int) -> np.ndarray:
        """Training tokens by group."""
        tokens = np.zeros(count, np.int64)
        for _, documents, lengths in map(read_unit, self.units):
            kept = training[documents]
            tokens += np.bincount(groups[documents[kept]], lengths[kept], count).astype(np.int64)
        return tokens

    def _writer(self, name: str) -> ShardWriter:
        tokenizer = self.tokenizer
        size = self.options.shard_tokens
        return ShardWriter(self.folder, name, size, tokenizer.vocab_size, tokenizer.fingerprint)


class _closing:
    def __init__(self, *writers: ShardWriter) -> None:
        self._writers = writers

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for writer in self._writers:
            writer.close(error)

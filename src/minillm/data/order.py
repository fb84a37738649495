"""The order in which samples are seen: from the seed and the sample number, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STRETCH = 16  # batches that are sorted together


class Order:
    """Epochs of `per_epoch` samples, each in a permutation of its own drawn from (seed, epoch).

    Sample s is place s % per_epoch of epoch s // per_epoch, so a run that is taken up again needs
    only the number of the next sample. The order rests on the raw stream of Philox (Salmon et al.
    2011), which NumPy keeps the same in all versions. One epoch's order is held: 8 bytes a sample.

    Raises ValueError for no samples or a negative seed.
    """

    def __init__(self, per_epoch: int, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"order: seed {seed}, 0 or more is needed")
        if per_epoch < 1:
            raise ValueError(f"order: {per_epoch} samples, at least 1 is needed")
        self.per_epoch, self.seed = per_epoch, seed
        self._epoch = -1
        self._drawn = np.empty(0, np.int64)

    def samples(self, first_sample: int, size: int) -> np.ndarray:
        """What the samples first_sample ... first_sample + size - 1 are, (size,) int64.

        However samples are sliced into batches, each sample is the same. Raises ValueError for a
        negative sample or a size below 1.
        """
        if first_sample < 0 or size < 1:
            raise ValueError(
                f"order: {size} samples from {first_sample}, at least 1 from 0 or later is needed"
            )
        parts: list[np.ndarray] = []
        sample, end = first_sample, first_sample + size
        while sample < end:
            epoch, place = divmod(sample, self.per_epoch)
            taken = self._of_epoch(epoch)[place : place + end - sample]
            parts.append(taken)
            sample += len(taken)
        return np.concatenate(parts)

    def _of_epoch(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            stream = np.random.Philox(np.random.SeedSequence((self.seed, epoch)))
            self._epoch = epoch
            self._drawn = self.draw(stream)
        return self._drawn

    def draw(self, stream: np.random.Philox) -> np.ndarray:
        """The samples of an epoch in their order, from its stream."""
        return np.argsort(stream.random_raw(self.per_epoch), kind="stable")


class AlikeInLength(Order):
    """The same, but the samples of a batch are of like length, so that little of it is padding.

    Batches are `batch` samples from a multiple of `batch` on. An epoch's permutation is cut into
    stretches of some batches, each sorted by length and cut into batches; these are shuffled.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        super().__init__(len(lengths), seed)
        self._lengths, self._batch = np.asarray(lengths), batch

    def draw(self, stream: np.random.Philox) -> np.ndarray:
        drawn = super().draw(stream)
        begun = -(self._epoch * self.per_epoch) % self._batch  # they end the last epoch's batch
        first, rest = drawn[:begun], drawn[begun:]
        stretch = STRETCH * self._batch
        ordered = [
            part[np.argsort(self._lengths[part], kind="stable")]
            for part in (rest[at : at + stretch] for at in range(0, len(rest), stretch))
        ]
        batches = [
            part[at : at + self._batch]
            for part in ordered
            for at in range(0, len(part), self._batch)
        ]
        left = batches.pop() if batches and len(batches[-1]) < self._batch else first[:0]
        order: Sequence[int] = []
        if batches:
            order = np.argsort(stream.random_raw(len(batches)), kind="stable").tolist()
        return np.concatenate([first, *(batches[place] for place in order), left])

"""The order in which samples are seen: from the seed and the sample number, nothing else."""

from __future__ import annotations

import numpy as np


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
            self._epoch, self._drawn = epoch, self.draw(stream)
        return self._drawn

    def draw(self, stream: np.random.Philox) -> np.ndarray:
        """The samples of an epoch in their order, from its stream."""
        return np.argsort(stream.random_raw(self.per_epoch), kind="stable")

"""Windows of tokens: shuffled for training, in order for validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .tokens import TokenFile

Batch = tuple[np.ndarray, np.ndarray]


class Windows:
    """Training windows in an order that depends on the seed and the sample number, nothing else.

    W = (n - 1) // context windows make an epoch, each target in one of them at most. Epoch e draws
    a phase in 0 ... n - 1 - W * context and a permutation from (seed, e); window w begins at
    phase + w * context. Sample s is place s % W of epoch s // W, so a run that is taken up again
    needs only the number of the next sample. The order rests on the raw stream of Philox (Salmon et
    al. 2011), which NumPy keeps the same in all versions. One epoch's order is held: 8 W bytes.

    Raises ValueError for fewer than context + 1 tokens, a context below 1 or a negative seed.
    """

    def __init__(self, tokens: TokenFile | np.ndarray, context: int, seed: int) -> None:
        self._ids = _ids_of(tokens)
        self.context, self.seed = context, seed
        if seed < 0:
            raise ValueError(f"windows: seed {seed}, 0 or more is needed")
        require_context(len(self._ids), context)
        self.per_epoch = (len(self._ids) - 1) // context
        self._epoch = -1
        self._starts = np.empty(0, np.int64)

    def batch(self, first_sample: int, size: int) -> Batch:
        """Samples first_sample ... first_sample + size - 1: inputs and targets, (B, T) int64 each.

        However samples are sliced into batches, each sample is the same. Raises ValueError for a
        negative sample or a size below 1.
        """
        if first_sample < 0 or size < 1:
            raise ValueError(
                f"windows: {size} samples from {first_sample}, at least 1 from 0 or later is needed"
            )
        starts: list[np.ndarray] = []
        sample, end = first_sample, first_sample + size
        while sample < end:
            epoch, place = divmod(sample, self.per_epoch)
            taken = self._epoch_starts(epoch)[place : place + end - sample]
            starts.append(taken)
            sample += len(taken)
        return _gathered(self._ids, np.concatenate(starts), self.context)

    def _epoch_starts(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            stream = np.random.Philox(np.random.SeedSequence((self.seed, epoch)))
            slack = len(self._ids) - 1 - self.per_epoch * self.context
            phase = int(stream.random_raw()) % (slack + 1)
            order = np.argsort(stream.random_raw(self.per_epoch), kind="stable")
            self._epoch, self._starts = epoch, phase + order * self.context
        return self._starts


def validation(
    tokens: TokenFile | np.ndarray, context: int, batch_size: int, limit_tokens: int | None = None
) -> Iterator[Batch]:
    """Batches of inputs and targets, (B, T) int64 each, in order: every target exactly once.

    What is left at the end is a batch of its own with one shorter row. With `limit_tokens` below
    the number of targets, as many whole windows as fit the limit (one at least), spread evenly over
    all tokens. Raises ValueError for fewer than context + 1 tokens or a size or limit below 1.
    """
    ids = _ids_of(tokens)
    require_context(len(ids), context)
    if batch_size < 1 or (limit_tokens is not None and limit_tokens < 1):
        raise ValueError(
            f"validation: batches of {batch_size} limited to {limit_tokens} tokens, "
            "at least 1 of each is needed"
        )
    targets = len(ids) - 1
    whole, left = divmod(targets, context)
    chosen = np.arange(whole)
    if limit_tokens is not None and limit_tokens < targets:
        some = max(1, limit_tokens // context)
        chosen, left = np.arange(some) * whole // some, 0
    batches = [
        (chosen[at : at + batch_size] * context, context)
        for at in range(0, len(chosen), batch_size)
    ]
    if left:
        batches.append((np.array([whole * context]), left))
    return (_gathered(ids, starts, length) for starts, length in batches)


def require_context(
    tokens: int, context: int, command: str = "windows", what: str = "tokens"
) -> None:
    """Raise ValueError unless there are `context` inputs and the token after them."""
    if context < 1:
        raise ValueError(f"{command}: a context of {context}, at least 1 is needed")
    if tokens < context + 1:
        raise ValueError(
            f"{command}: {tokens} {what}: a context of {context} needs at least "
            f"{context + 1}; choose a smaller context or more text"
        )


def _ids_of(tokens: TokenFile | np.ndarray) -> np.ndarray:
    ids = tokens.ids if isinstance(tokens, TokenFile) else np.asarray(tokens)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"windows: ids are {ids.dtype}, integers are needed")
    if ids.ndim != 1:
        raise ValueError(f"windows: ids of shape {ids.shape}, one dimension is needed")
    return ids


def _gathered(ids: np.ndarray, starts: np.ndarray, length: int) -> Batch:
    rows = ids[starts[:, None] + np.arange(length + 1)].astype(np.int64)
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])

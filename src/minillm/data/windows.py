"""Windows of tokens: shuffled for training, in order for validation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .order import Order
from .shards import TokenArray, Tokens

Batch = tuple[np.ndarray, np.ndarray]


class Windows(Order):
    """Training windows in an order that depends on the seed and the sample number, nothing else.

    W = (n - 1) // context windows make an epoch, each target in one of them at most. Epoch e draws
    a phase in 0 ... n - 1 - W * context and a permutation from (seed, e); window w begins at
    phase + w * context.

    Raises ValueError for fewer than context + 1 tokens, a context below 1 or a negative seed.
    """

    def __init__(self, tokens: Tokens | np.ndarray, context: int, seed: int) -> None:
        self._tokens = _tokens_of(tokens)
        self.context = context
        require_context(len(self._tokens), context)
        super().__init__((len(self._tokens) - 1) // context, seed)

    def batch(self, first_sample: int, size: int) -> Batch:
        """Samples first_sample ... first_sample + size - 1: inputs and targets, (B, T) int64 each.

        Errors as in `Order.samples`.
        """
        return _gathered(self._tokens, self.samples(first_sample, size), self.context)

    def draw(self, stream: np.random.Philox) -> np.ndarray:
        """Where the windows of an epoch begin."""
        slack = len(self._tokens) - 1 - self.per_epoch * self.context
        phase = int(stream.random_raw()) % (slack + 1)
        return phase + super().draw(stream) * self.context


def validation(
    tokens: Tokens | np.ndarray, context: int, batch_size: int, limit_tokens: int | None = None
) -> Iterator[Batch]:
    """Batches of inputs and targets, (B, T) int64 each, in order: every target exactly once.

    What is left at the end is a batch of its own with one shorter row. With `limit_tokens` below
    the number of targets, as many whole windows as fit the limit (one at least), spread evenly over
    all tokens. Raises ValueError for fewer than context + 1 tokens or a size or limit below 1.
    """
    tokens = _tokens_of(tokens)
    starts = validation_starts(len(tokens), context, batch_size, limit_tokens)
    return (_gathered(tokens, begins, length) for begins, length in starts)


def validation_starts(
    tokens: int, context: int, batch_size: int, limit_tokens: int | None = None
) -> list[tuple[np.ndarray, int]]:
    """Where the windows of `validation` begin, batch by batch, and how many inputs each has."""
    require_context(tokens, context)
    if batch_size < 1 or (limit_tokens is not None and limit_tokens < 1):
        raise ValueError(
            f"validation: batches of {batch_size} limited to {limit_tokens} tokens, "
            "at least 1 of each is needed"
        )
    targets = tokens - 1
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
    return batches


def require_context(
    tokens: int, context: int, command: str = "windows", what: str = "tokens"
) -> None:
    """Raise ValueError unless there are `context` inputs and the token after them."""
    if context < 1:
        raise ValueError(f"{command}: a context of {context}, at least 1 is needed")
    if tokens < context + 1:
        smaller = "a smaller context or " * (context > 1)
        raise ValueError(
            f"{command}: {tokens} {what}: a context of {context} needs at least "
            f"{context + 1}; choose {smaller}more text"
        )


def _tokens_of(tokens: Tokens | np.ndarray) -> Tokens:
    return tokens if isinstance(tokens, Tokens) else TokenArray(np.asarray(tokens))


def _gathered(tokens: Tokens, starts: np.ndarray, length: int) -> Batch:
    rows = tokens.rows(starts, length + 1)
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])

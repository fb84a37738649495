"""Whose weights are damaged, where a model gives no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named(command: str, *models: str) -> Iterator[None]:
    """Logits that are not finite become an error that names the files of their model."""
    from minillm.generation.sampling import NotFinite

    try:
        yield
    except NotFinite as error:
        fact = str(error).partition(": ")[2]
        raise ValueError(
            f"{command}: {fact}; the weights of {' or '.join(models)} are damaged"
        ) from error

"""A bound on the keys and values that are held at once, kept by letting requests wait."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from minillm.generation.memory import longest, text_bytes
from minillm.generation.options import Options
from minillm.generation.prompts import Prompt
from minillm.quantities import counted, size

FIRST = 32  # positions that the smallest buffer has


class Holder(Protocol):
    """What takes part in a budget."""

    @property
    def held(self) -> int:
        """Bytes that its requests may come to hold."""


class Budget:
    """Bytes of keys and values that several engines may hold together."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"cache-bytes: {most}, 1 or more is needed")
        self.most = most
        self._holders: weakref.WeakSet[Holder] = weakref.WeakSet()

    def join(self, holder: Holder) -> None:
        self._holders.add(holder)

    @property
    def held(self) -> int:
        """By all who joined."""
        return sum(holder.held for holder in self._holders)

    def has_room(self, needed: int) -> bool:
        """Whether so many more fit now."""
        return self.held + needed <= self.most

    def texts(self, each: int, prompt: Prompt) -> int:
        """How many texts of `each` bytes it may hold; ValueError for none."""
        if each > self.most:
            tokens = counted(len(prompt.ids) + prompt.limit, "token")
            raise ValueError(
                f"max-tokens: a text of up to {tokens} may need {size(each)} of keys and values, "
                f"at most {size(self.most)} are held; a smaller max-tokens or a shorter prompt is "
                "needed"
            )
        return self.most // max(1, each)


def room_of(config: Any, prompt: Prompt, o: Options, chunk: int) -> int:
    """Bytes of a text at its longest: its buffers, which double, and those of its prompt once more
    where that is echoed with log-probabilities."""
    if not o.use_cache:
        return 0
    read, capacity = len(prompt.ids), 0
    for end in [*range(chunk, read, chunk), read]:
        if end > capacity:
            capacity = max(end, 2 * capacity, FIRST)
    needed = text_bytes(config, capacity, o.cache_dtype) if o.echo and o.logprobs is not None else 0
    while capacity < longest(config, prompt):
        capacity *= 2
    needed += text_bytes(config, capacity, o.cache_dtype)
    if prompt.source is not None:
        needed += text_bytes(config, len(prompt.source), "float32")
    return needed

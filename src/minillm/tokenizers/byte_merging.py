"""Byte-pair encoding of one pre-token, given as bytes, however long it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .byte_alphabet import spell
from .merging import PairTable, merge
from .vocabulary import Pieces

_BLOCK = 1 << 13
_TRIES = 64


class ByteMerger:
    """Merges the bytes of pre-tokens; time is linear in their length, memory for a list bounded.

    `pieces` are the bytes of each id, none longer than `longest`, `byte_ids` the id of each byte,
    None where it has none: such a byte is dropped, as Hugging Face's BPE and llama.cpp do. With
    `whole`, ids of tokens in the byte alphabet, a pre-token that is a token is that token, whatever
    the merges say (`ignore_merges`).
    """

    def __init__(
        self,
        pieces: Pieces,
        longest: int,
        byte_ids: Sequence[int | None],
        table: PairTable,
        whole: Mapping[str, int] | None = None,
    ) -> None:
        self._pieces, self._table, self._whole = pieces, table, whole or {}
        self._byte_ids = [id or 0 for id in byte_ids]
        self.missing = bytes(byte for byte, id in enumerate(byte_ids) if id is None)
        self.longest = longest

    def merge(self, data: bytes) -> list[int]:
        """The ids of `data`, all bytes of which have an id."""
        byte_ids = self._byte_ids
        return merge([byte_ids[byte] for byte in data], self._table)

    def blocks(self, data: bytes, final: bool = False) -> Iterator[list[int]]:
        """The ids of one pre-token in lists; with `final` only those that no byte can change.

        Each list ends where no byte to come can move the end, so that memory and time for a list do
        not depend on the length of the pre-token.
        """
        if self.missing:
            data = data.translate(None, self.missing)
        found = self._whole.get(spell(data)) if len(data) <= self.longest else None
        if found is not None:
            yield [found]
            return
        size = max(_BLOCK, 256 * self.longest)
        start, width = 0, size
        while start < len(data):
            block = data[start : start + width]
            ids = self.merge(block)
            last = start + width >= len(data)
            if last and not final:
                yield ids
                return
            count = self._settled(block, ids)
            yield ids[:count]
            if last:
                return
            start += sum(len(self._pieces[id]) for id in ids[:count])
            width = size if count else 2 * width

    def _settled(self, block: bytes, ids: list[int]) -> int:
        """How many of `ids`, the merged `block`, stay as they are whatever follows the block.

        A sequence of tokens is the merged form of its bytes exactly when every two neighbours are.
        So a boundary stays if its left token keeps apart from each token that can follow it.
        Boundaries inside a character are passed over.
        """
        reach = max(self.longest, 4)
        at = len(block)
        tries = _TRIES
        for count in range(len(ids) - 1, 0, -1):
            at -= len(self._pieces[ids[count]])
            if len(block) - at < reach or block[at] & 0xC0 == 0x80:
                continue
            left = ids[count - 1]
            if all(self._apart(left, right) for right in self._firsts(block[at:], reach)):
                return count
            tries -= 1
            if not tries:
                break
        return 0

    def _firsts(self, data: bytes, reach: int) -> Iterator[int]:
        """Each token that `data` can begin with once it is continued and merged.

        The last boundary within `data` lies less than `reach` bytes, the longest token, before its
        end, and what comes before a boundary is merged as if nothing followed.
        """
        seen = set()
        for end in range(len(data) - reach + 1, len(data) + 1):
            first = self.merge(data[:end])[0]
            if first not in seen:
                seen.add(first)
                yield first

    def _apart(self, left: int, right: int) -> bool:
        """Whether two neighbouring tokens do not merge."""
        return self.merge(self._pieces[left] + self._pieces[right]) == [left, right]

"""SentencePiece's compiled tables of replacements (`precompiled_charsmap`).

A table is a trie of texts in a double array, and the texts they become. Source: Kudo and Richardson
2018 (SentencePiece); Yata 2011 (the units of the double array).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator

import numpy as np

from minillm.quantities import counted

from .graphemes import clusters

_MOST_NODES = 1 << 15
_LARGEST_CLUSTER = 5  # bytes


class CharsMap:
    """Replaces texts by others; `single` is the part of the table for one character, by point."""

    def __init__(self, data: bytes) -> None:
        """ValueError for what is no such table."""
        size = int.from_bytes(data[:4], "little")
        if size % 4 or not 0 < size <= len(data) - 4:
            raise ValueError(
                f"a table of {counted(len(data), 'byte')} says that its trie has {size:,}"
            )
        self._texts = data[4 + size :]
        units = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64)
        self._labels = np.where(units >> 31, -1, units & 0xFF)
        self._offsets = (units >> 10) << ((units & 0x200) >> 6)
        self._units, self._root = units.tolist(), int(self._offsets[0])
        firsts = list(self._next(np.array([self._root])))
        self.single = {}
        for character, _ in firsts:
            text, used = self.longest(character.encode("utf-8"))
            if used:
                self.single[ord(character)] = text
        nodes = np.unique(np.array([node for _, node in firsts], np.int64))
        seconds = {after for after, _ in self._next(nodes)}
        self._firsts = frozenset(character for character, _ in firsts)
        inside = "".join(map(re.escape, sorted(seconds)))
        self._second = re.compile(f"[{inside}]" if inside else "(?!)")

    def replace(self, text: str) -> str:
        """Replace, from left to right, the longest text of the table wherever there is one."""
        parts = []
        at = 0
        found = self._second.search(text, 1)
        while found:
            start = found.start() - 1
            new, used = "", 0
            if text[start] in self._firsts:
                new, used = self.longest(text[start : start + 64].encode("utf-8"))
            if used:
                parts += [text[at:start].translate(self.single), new]
                at = start + len(text[start : start + 64].encode("utf-8")[:used].decode("utf-8"))
            found = self._second.search(text, max(at + 1, found.end()))
        return "".join([*parts, text[at:].translate(self.single)])

    def longest(self, data: bytes) -> tuple[str, int]:
        """What the longest text of the table that `data` begins with becomes, and its bytes."""
        return max(self.prefixes(data), key=lambda found: found[1], default=("", 0))

    def prefixes(self, data: bytes) -> Iterator[tuple[str, int]]:
        """The same for every text of the table that `data` begins with, the shortest first."""
        units, node = self._units, self._root
        for used, byte in enumerate(data, 1):
            node ^= byte
            if node >= len(units) or units[node] & 0x800000FF != byte:
                return
            unit = units[node]
            node ^= unit >> 10 << ((unit & 0x200) >> 6)
            if unit >> 8 & 1:
                value = units[node] & 0x7FFFFFFF if node < len(units) else len(self._texts)
                end = self._texts.find(b"\0", value)
                if end < 0:
                    raise ValueError(f"a table whose text {value} is none of its own")
                yield self._texts[value:end].decode("utf-8"), used

    def _next(self, nodes: np.ndarray) -> Iterator[tuple[str, int]]:
        """The characters that may follow any of `nodes`, each with the node it leads to."""
        names = [b""] * len(nodes)
        bytes_ = np.arange(1, 256)
        for _ in range(4):
            if len(nodes) > _MOST_NODES:
                raise ValueError("a table whose trie is damaged")
            places = nodes[:, None] ^ bytes_
            inside = np.where(places < len(self._labels), places, 0)
            which, byte = np.nonzero((self._labels[inside] == bytes_) & (places == inside))
            found = inside[which, byte]
            names = [names[i] + bytes([b + 1]) for i, b in zip(which.tolist(), byte.tolist())]
            nodes = found ^ self._offsets[found]
            whole = np.array([_is_character(name) for name in names], bool)
            for i in np.nonzero(whole)[0].tolist():
                yield names[i].decode("utf-8"), int(nodes[i])
            names = [name for name, done in zip(names, whole) if not done]
            nodes = nodes[~whole]


def grapheme_normalizer(encoded: str) -> Callable[[str], str]:
    """What Hugging Face's Precompiled does with a table in base64; ValueError for another.

    A grapheme cluster of up to 5 bytes becomes what the shortest text it begins with becomes; the
    rest of it is lost. In other clusters each character is replaced by itself.
    """
    try:
        table = CharsMap(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"normalizer.precompiled_charsmap is damaged ({error})") from None

    def one(match: re.Match[str]) -> str:
        data = match.group().encode("utf-8")
        found = next(table.prefixes(data), None) if len(data) <= _LARGEST_CLUSTER else None
        return match.group().translate(table.single) if found is None else found[0]

    def run(text: str) -> str:
        if text.isascii() and "\r" not in text:
            return text.translate(table.single)
        parts, at = [], 0
        for match in clusters().finditer(text):
            parts += [text[at : match.start()].translate(table.single), one(match)]
            at = match.end()
        return "".join([*parts, text[at:].translate(table.single)])

    return run


def _is_character(data: bytes) -> bool:
    lead = data[0]
    return len(data) == 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)

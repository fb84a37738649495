"""The bytes of every token, as a tree: what tokens begin alike is looked at once."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy

from minillm.tokenizers import Tokenizer

LONGEST = 32  # bytes of the tokens that a shortest ending is made of


class Tree:
    """The pieces of all ids by what they begin with; ids without bytes are nowhere in it.

    node_of    node where an id's bytes end, (V,); `nodes` for an id that is nowhere
    byte       last byte of a node, (nodes,); node 0 is the root
    children   first child and number of children of each node
    """

    def __init__(self, pieces: list[bytes]) -> None:
        sizes = numpy.array([len(piece) for piece in pieces], numpy.int64)
        data = numpy.frombuffer(b"".join(pieces), numpy.uint8)
        begins = numpy.cumsum(sizes) - sizes
        at = numpy.zeros(len(pieces), numpy.int64)
        parents, letters = [numpy.array([-1])], [numpy.array([0])]
        self.nodes, depth = 1, 0
        while (longer := numpy.flatnonzero(sizes > depth)).size:
            keys = at[longer] * 256 + data[begins[longer] + depth]
            found, place = numpy.unique(keys, return_inverse=True)
            at[longer] = self.nodes + place
            parents.append(found // 256)
            letters.append(found % 256)
            self.nodes += len(found)
            depth += 1
        self.byte = numpy.concatenate(letters)
        self.node_of = numpy.where(sizes > 0, at, self.nodes)
        self.count = numpy.bincount(numpy.concatenate(parents)[1:], minlength=self.nodes)
        self.first = numpy.cumsum(self.count) - self.count + 1


class TokenPieces:
    """What a constraint knows of a tokenizer: see `Tree`; kept once for each tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.size = tokenizer.vocab_size
        self.eos_id = tokenizer.eos_id
        control = frozenset(tokenizer.special_tokens.values())
        ids = range(self.size)
        self.later = [b"" if id in control else tokenizer.token_bytes(id) for id in ids]
        self.first = [
            b"" if id in control else _stripped(tokenizer, id, piece)
            for id, piece in enumerate(self.later)
        ]
        self.short = frozenset(piece for piece in self.later if 0 < len(piece) <= LONGEST)
        self.bytes = frozenset(piece[0] for piece in self.short if len(piece) == 1)
        self.constraints: OrderedDict[tuple[str, str], Any] = OrderedDict()  # the latest last
        self.masks: OrderedDict[tuple[Any, ...], Any] = OrderedDict()  # of all of them
        self.lock = threading.Lock()  # held while these, or what a constraint keeps, may change
        self.characters = numpy.array(sorted(_characters(self.short)), numpy.int64)

    @cached_property
    def tree(self) -> Tree:
        return Tree(self.later)

    @cached_property
    def first_tree(self) -> Tree:
        """The same for the first token of a text, which may lose spaces when it is decoded."""
        return self.tree if self.first == self.later else Tree(self.first)


def _stripped(tokenizer: Tokenizer, id: int, later: bytes) -> bytes:
    """The bytes of `id` where a text begins; none if nothing is left of them."""
    piece = tokenizer.text_bytes(id, True) or b""
    if piece == later and not (tokenizer.leading_spaces and piece.startswith(b" ")):
        return later
    kept = piece.lstrip(b" ")
    return piece[min(tokenizer.leading_spaces, len(piece) - len(kept)) :]


def _characters(pieces: Iterable[bytes]) -> Iterable[int]:
    for piece in pieces:
        try:
            text = piece.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) == 1:
            yield ord(text)


_known: weakref.WeakKeyDictionary[Tokenizer, TokenPieces] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def pieces_of(tokenizer: Tokenizer) -> TokenPieces:
    """The pieces of a tokenizer, taken once."""
    with _lock:
        found = _known.get(tokenizer)
        if found is None:
            found = _known[tokenizer] = TokenPieces(tokenizer)
    return found

"""How many tokens a text needs to be complete: an ending is chosen, and cut into tokens best.

The ending is the cheapest by parts, so the count may be above the least there is, never below:
after the first token of the ending one fewer is needed, and so on to the end.
"""

from __future__ import annotations

import numpy

from minillm.generation.constraints.automaton import Automaton, Place, State
from minillm.generation.constraints.costs import NEVER, Cost
from minillm.generation.constraints.language import (
    Characters,
    Choice,
    Literal,
    Node,
    Repeat,
    Rule,
    Series,
)
from minillm.generation.constraints.pieces import LONGEST, TokenPieces

UNREACHABLE = 1 << 15  # tokens; no budget is that large
DEEPEST = 256  # places to return to: other readers take no text that is nested without end


class Spelling:
    """How characters and literals are made of a vocabulary's tokens."""

    def __init__(self, pieces: TokenPieces) -> None:
        self._pieces = pieces
        self._of: dict[Characters, bytes | None] = {}

    def cost(self, node: Literal | Characters) -> Cost:
        if isinstance(node, Literal):
            return self._cut(node.data)
        data = self.of(node)
        if data is None:
            return NEVER
        return (1 if data in self._pieces.short else len(data)), len(data)

    def of(self, node: Characters) -> bytes | None:
        """Bytes of one character, a token if one is, else each of them a token; None: neither."""
        if node not in self._of:
            self._of[node] = self._token(node) or self._single_bytes(node)
        return self._of[node]

    def _token(self, node: Characters) -> bytes | None:
        if node.tail == 0:
            known = self._pieces.characters
            for low, high in node.ranges:
                place = int(numpy.searchsorted(known, low))
                if place < len(known) and known[place] <= high:
                    return chr(known[place]).encode("utf-8")
        return None

    def _single_bytes(self, node: Characters) -> bytes | None:
        for byte in sorted(self._pieces.bytes):
            group = node.groups[byte]
            if group:
                tail = node.after[group]
                rest = b"" if tail is None else self._single_bytes(tail)
                if rest is not None:
                    return bytes([byte]) + rest
        return None

    def _cut(self, data: bytes) -> Cost:
        best = [0] + [NEVER[0]] * len(data)
        for end in range(1, len(data) + 1):
            for start in range(max(0, end - LONGEST), end):
                if best[start] + 1 < best[end] and data[start:end] in self._pieces.short:
                    best[end] = best[start] + 1
        return (best[-1], len(data)) if best[-1] < NEVER[0] else NEVER


class Closing:
    """The tokens that each state needs to be complete."""

    def __init__(
        self,
        automaton: Automaton,
        pieces: TokenPieces,
        spelling: Spelling,
        costs: dict[Node, Cost],
        picks: dict[Choice, int],
    ) -> None:
        self._automaton, self._tokens, self._spelling = automaton, pieces.short, spelling
        self._costs, self._picks = costs, picks
        self.forget()

    def forget(self) -> None:
        self._needed: dict[Place, int] = {self._automaton.end: 0}
        self._steps: dict[Place, tuple[bytes, Place | None]] = {}

    def needed(self, state: State) -> int:
        """Tokens, UNREACHABLE where there is no end."""
        return min((self._place(place) for place in state), default=UNREACHABLE)

    def _place(self, place: Place) -> int:
        if place not in self._needed:
            self._follow(place)
        return self._needed[place]

    def _follow(self, place: Place) -> None:
        """Walk the chosen ending until the count is known, then count back."""
        chain, spelled, here = [place], list[bytes](), place
        beyond = 0
        while here is not self._automaton.end and beyond < LONGEST:
            data, after = self._step(here)
            if after is None:
                break
            spelled.append(data)
            chain.append(after)
            beyond = beyond + len(data) if after in self._needed else 0
            here = after
        for index in range(len(chain) - 1, -1, -1):
            if chain[index] not in self._needed:
                self._needed[chain[index]] = self._best(chain, spelled, index)

    def _best(self, chain: list[Place], spelled: list[bytes], index: int) -> int:
        best, data = UNREACHABLE, b""
        for end in range(index, len(spelled)):
            data += spelled[end]
            if len(data) > LONGEST:
                break
            if data in self._tokens:
                best = min(best, self._needed[chain[end + 1]] + 1)
        return best

    def _step(self, place: Place) -> tuple[bytes, Place | None]:
        """What comes next in the ending chosen at a place, and the place after it."""
        found = self._steps.get(place)
        if found is None:
            found = self._steps[place] = self._chosen(place)
        return found

    def _chosen(self, place: Place) -> tuple[bytes, Place | None]:
        node = place.node
        if isinstance(node, Literal):
            data = node.data[place.at : place.at + 1]
            return data, self._settled(self._automaton.next(place, 1))
        assert isinstance(node, Characters)
        whole = self._spelling.of(node)
        if whole is None:
            return b"", None
        if whole in self._tokens:
            assert place.rest is not None
            return whole, self._settled(place.rest)
        return whole[:1], self._settled(self._automaton.next(place, node.groups[whole[0]]))

    def _settled(self, place: Place) -> Place | None:
        """The place before the next byte of the ending chosen; None where it is nested too deep."""
        automaton = self._automaton
        while place.node is not None:
            node, at, rest = place.node, place.at, place.rest
            assert rest is not None
            if isinstance(node, Characters) or (isinstance(node, Literal) and at < len(node.data)):
                break
            if place.deep > DEEPEST:
                return None
            if isinstance(node, Literal):
                place = rest
            elif isinstance(node, Series):
                place = automaton.item(node, at, rest)
            elif isinstance(node, Choice):
                place = automaton.place(node.options[self._picks[node]], 0, rest)
            elif isinstance(node, Rule):
                place = automaton.place(node.body, 0, rest)
            else:
                assert isinstance(node, Repeat)
                enough = at >= node.least or self._costs[node.item] == (0, 0)
                place = rest if enough else automaton.again(node, at, rest)
        return place

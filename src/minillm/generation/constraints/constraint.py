"""Which tokens may come next: a language, a vocabulary and what is left of the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy

from minillm.generation.constraints.automaton import MOST_STATES, Automaton
from minillm.generation.constraints.closing import UNREACHABLE, Closing, Spelling
from minillm.generation.constraints.costs import NEVER, cheapest, shortest
from minillm.generation.constraints.language import Characters, Literal, Node, nodes
from minillm.generation.constraints.pieces import TokenPieces, Tree, pieces_of
from minillm.quantities import counted
from minillm.tokenizers import Tokenizer

MOST_BYTES = 64 << 20  # of masks that are kept for a tokenizer
KEPT = 16  # constraints for a tokenizer
NOWHERE = UNREACHABLE - 1  # the largest int16


class Constraint:
    """A language compiled for a tokenizer; what was found out of it is kept for all its texts.

    `start()` begins a text. May be shared between threads, a state may not.
    """

    def __init__(self, kind: str, root: Node, pieces: TokenPieces) -> None:
        """ValueError, beginning with `kind`, where no text of the language can be written."""
        ordered = nodes(root)
        if shortest(ordered)[root] == NEVER:
            raise ValueError(f"{kind}: no text is possible, one is needed")
        spelling = Spelling(pieces)
        costs, picks = cheapest(ordered, spelling.cost)
        if costs[root] == NEVER:
            raise ValueError(
                f"{kind}: no text is possible with the tokens of this vocabulary, which has none "
                f"for {unspelled(ordered, spelling)}"
            )
        if costs[root][0] >= UNREACHABLE - 1:
            raise ValueError(
                f"{kind}: the shortest text needs {counted(costs[root][0], 'token')}, at most "
                f"{UNREACHABLE - 2} are possible"
            )
        self.kind, self.pieces = kind, pieces
        self.automaton = Automaton(root, costs)
        self._closing = Closing(self.automaton, pieces, spelling, costs, picks)
        self.lock = pieces.lock
        self._needed = numpy.full(16, -1, numpy.int32)
        start = self.automaton.start
        begins = pieces.first_tree is pieces.tree or self.automaton.complete(start)
        with self.lock:
            fewest = 0 if begins else self.needed(self.automaton.number(start), True)[1]
        if fewest == NOWHERE:
            raise ValueError(
                f"{kind}: no text can begin with a token of this vocabulary, which drops spaces at "
                "the beginning of a text"
            )

    def start(self, ends: Iterable[int] = ()) -> ConstraintState:
        """A text that has not begun. `ends`: ids that end a text, besides the tokenizer's own."""
        return ConstraintState(self, frozenset(ends))

    def needed(self, number: int, first: bool) -> tuple[numpy.ndarray, int]:
        """Tokens that each id leaves to be written for a complete text, (V,) int16; the fewest."""
        key, kept = (self, self.automaton.epoch, number, first), self.pieces.masks
        found = kept.get(key)
        if found is None:
            counts = self._count(number, self.pieces.first_tree if first else self.pieces.tree)
            found = kept[key] = counts, int(counts.min())
            if len(kept) * counts.nbytes > MOST_BYTES:
                kept.popitem(last=False)
        return found

    def _count(self, number: int, tree: Tree) -> numpy.ndarray:
        reached = reach(self.automaton, number, tree)
        size = len(self.automaton.states)
        if size > len(self._needed):
            more = numpy.full(2 * size - len(self._needed), -1, numpy.int32)
            self._needed = numpy.concatenate((self._needed, more))
        counts = self._needed[reached]
        if (counts < 0).any():
            for new in numpy.unique(reached[counts < 0]).tolist():
                needed = self._closing.needed(self.automaton.states[new])
                self._needed[new] = min(needed, NOWHERE)
            counts = self._needed[reached]
        return counts.astype(numpy.int16)[tree.node_of]

    def number(self, state: ConstraintState) -> int:
        """The number of a text's state; old numbers are given up when there are too many."""
        automaton = self.automaton
        if len(automaton.states) > MOST_STATES:
            automaton.forget()
            self._closing.forget()
            self._needed.fill(-1)
        if state.epoch != automaton.epoch:
            state.number, state.epoch = automaton.number(state.places), automaton.epoch
        return state.number

    def after(self, number: int, data: bytes) -> int:
        """The state that `data` leads to."""
        for byte in data:
            number = int(self.automaton.row(number)[byte])
        return number


class ConstraintState:
    """One text under a constraint, token by token."""

    def __init__(self, constraint: Constraint, ends: frozenset[int]) -> None:
        size, own = constraint.pieces.size, constraint.pieces.eos_id
        self._constraint = constraint
        self.ends = frozenset(end for end in ends | {own} if end is not None and 0 <= end < size)
        self.places = constraint.automaton.start
        self.epoch, self.number = -1, 0
        self._first, self._ended = True, False

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._constraint.automaton.complete(self.places)

    @property
    def finished(self) -> bool:
        """Whether nothing but an end may follow."""
        return self._ended or (self.complete and len(self.places) == 1)

    def allowed(self, remaining: int) -> numpy.ndarray:
        """Which ids may come next, (V,) bool, where `remaining` tokens may, this one included.

        After each of them the text can be completed in the tokens that then remain. Ids that end a
        text may come exactly where it is complete; all is False where it is finished and there are
        none. ValueError where `remaining` tokens cannot complete it, naming the number needed.
        """
        if self._ended:
            raise RuntimeError("constraint: the text has ended, no token may follow")
        constraint = self._constraint
        with constraint.lock:
            needed, fewest = constraint.needed(constraint.number(self), self._first)
        complete = self.complete
        if not complete and fewest >= min(remaining, NOWHERE):
            left = counted(remaining, "token")
            raise ValueError(
                f"{constraint.kind}: {left} for the rest of the text, at least {fewest + 1} are "
                "needed; raise max-tokens"
            )
        mask: numpy.ndarray = needed < min(remaining, NOWHERE)
        for end in self.ends:
            mask[end] = complete
        return mask

    def advance(self, id: int) -> None:
        """Append a token. ValueError for one that the language does not allow here."""
        if self._ended:
            raise RuntimeError("constraint: the text has ended, no token may follow")
        constraint, number = self._constraint, 0
        if id in self.ends:
            self._ended = number = self.complete
        else:
            pieces = constraint.pieces.first if self._first else constraint.pieces.later
            data = pieces[id] if 0 <= id < len(pieces) else b""
            with constraint.lock:
                number = constraint.after(constraint.number(self), data) if data else 0
                self.places = constraint.automaton.states[number] or self.places
            self.number, self._first = number, False
        if not number:
            raise ValueError(f"{constraint.kind}: token {id} cannot come here, the mask forbids it")

    def fork(self) -> ConstraintState:
        """An independent copy."""
        twin = object.__new__(ConstraintState)
        twin.__dict__.update(self.__dict__)
        return twin


def reach(automaton: Automaton, start: int, tree: Tree) -> numpy.ndarray:
    """The state after the bytes of each node, (nodes + 1,); the last is the state of no return."""
    reached = numpy.zeros(tree.nodes + 1, numpy.int64)
    alive, states = numpy.zeros(1, numpy.int64), numpy.array([start])
    while len(alive):
        unknown = ~automaton.known[states]
        if unknown.any():
            for number in numpy.unique(states[unknown]).tolist():
                automaton.row(number)
        counts = tree.count[alive]
        before = numpy.cumsum(counts) - counts
        children = numpy.repeat(tree.first[alive] - before, counts) + numpy.arange(counts.sum())
        flat = numpy.repeat(states * 256, counts) + tree.byte[children]
        states = automaton.table.ravel()[flat]
        going = states > 0
        alive, states = children[going], states[going].astype(numpy.int64)
        reached[alive] = states
    return reached


def unspelled(ordered: Iterable[Node], spelling: Spelling) -> str:
    """A text or character that a vocabulary has no tokens for."""
    for node in ordered:
        if isinstance(node, Literal) and spelling.cost(node) == NEVER:
            return repr(node.data.decode("utf-8"))
    for node in ordered:
        if isinstance(node, Characters) and node.ranges and spelling.cost(node) == NEVER:
            return f"any character like {chr(node.ranges[0][0])!r}"
    return "it"


def compiled(kind: str, source: str, tokenizer: Tokenizer, build: Callable[[], Node]) -> Constraint:
    """The constraint of a source text, compiled once for each tokenizer; TypeError for no text."""
    if not isinstance(source, str):
        raise TypeError(f"{kind}: {type(source).__name__}, str is needed")
    pieces = pieces_of(tokenizer)
    with pieces.lock:
        found = pieces.constraints.get((kind, source))
    if found is None:
        found = Constraint(kind, build(), pieces)
    with pieces.lock:
        pieces.constraints[kind, source] = found
        pieces.constraints.move_to_end((kind, source))
        if len(pieces.constraints) > KEPT:
            _, old = pieces.constraints.popitem(last=False)
            for key in [key for key in pieces.masks if key[0] is old]:
                del pieces.masks[key]
    return found

"""A pushdown automaton over bytes, made deterministic as far as texts go.

A place in the language is a stack: a node, how far it has come, and the places to return to. A
state is the set of all places that the bytes so far can have led to; equal states have one number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from minillm.generation.constraints.costs import NEVER, Cost
from minillm.generation.constraints.language import (
    DEAD,
    Characters,
    Choice,
    Literal,
    Node,
    Repeat,
    Rule,
    Series,
)

MOST_PLACES = 4096  # at a time
MOST_STATES = 1 << 13  # of 1 KiB each; then all are forgotten, and found again when needed


class Place:
    """A node, how far it has come (bytes, items or repetitions), and where to go on after it."""

    __slots__ = ("after", "at", "deep", "leaves", "node", "number", "rest")

    def __init__(self, node: Node | None, at: int, rest: Place | None, number: int) -> None:
        self.node, self.at, self.rest, self.number = node, at, rest, number
        self.deep: int = 0 if rest is None else rest.deep + 1
        self.leaves: tuple[Place, ...] | None = None
        self.after: dict[int, tuple[Place, ...]] = {}


State = tuple[Place, ...]  # each at a Literal or Characters, or at the end; by number


class Automaton:
    """`numbers` of states are valid until `epoch` changes; 0 is the state of no return."""

    def __init__(self, root: Node, costs: dict[Node, Cost]) -> None:
        """`costs` are those of `cheapest`; nodes that have none are never entered."""
        self._costs = costs
        self.epoch, self._made = -1, 0
        self.end = Place(None, 0, None, 0)
        self._root = root
        self.forget()

    def forget(self) -> None:
        """Give all states up; those that are in use get new numbers."""
        self.epoch += 1
        self.states: list[State] = [()]
        self._numbers: dict[State, int] = {(): 0}
        self.table = numpy.zeros((16, 256), numpy.int32)
        self.known = numpy.zeros(16, bool)
        self.known[0] = True
        self._places: dict[tuple[Node, int, Place], Place] = {}
        self._groups: dict[tuple[bytes, ...], tuple[list[tuple[int, ...]], numpy.ndarray]] = {}
        self.start: State = self.leaves(self.place(self._root, 0, self.end))

    def place(self, node: Node, at: int, rest: Place) -> Place:
        key = (node, at, rest)
        found = self._places.get(key)
        if found is None:
            self._made += 1
            found = self._places[key] = Place(node, at, rest, self._made)
        return found

    def number(self, state: State) -> int:
        found = self._numbers.get(state)
        if found is None:
            if len(state) > MOST_PLACES:
                raise ValueError(
                    f"constraint: {len(state)} ways to read the text so far, at most {MOST_PLACES} "
                    "are followed; a less ambiguous pattern is needed"
                )
            found = self._numbers[state] = len(self.states)
            self.states.append(state)
            if found == len(self.table):
                self.table = numpy.concatenate((self.table, numpy.zeros_like(self.table)))
                self.known = numpy.concatenate((self.known, numpy.zeros_like(self.known)))
        return found

    def row(self, number: int) -> numpy.ndarray:
        """The number of the state after each byte, (256,)."""
        if not self.known[number]:
            self._learn(number)
        return self.table[number]

    def complete(self, state: State) -> bool:
        return bool(state) and state[0] is self.end

    def leaves(self, place: Place) -> State:
        """The places before the next byte, or the end, that `place` leads to."""
        if place.leaves is None:
            found, seen, todo = [], {place}, [place]
            while todo:
                here = todo.pop()
                node, at = here.node, here.at
                if node is None or isinstance(node, Characters) or is_before_byte(node, at):
                    found.append(here)
                else:
                    fresh = [step for step in self.steps(here) if step not in seen]
                    seen.update(fresh)
                    todo += fresh
            place.leaves = tuple(sorted(found, key=_by_number))
        return place.leaves

    def steps(self, place: Place) -> Iterator[Place]:
        """Where a place that stands before no byte leads to."""
        node, at, rest = place.node, place.at, place.rest
        assert rest is not None
        if isinstance(node, Literal):
            yield rest
        elif isinstance(node, Series):
            yield self.item(node, at, rest)
        elif isinstance(node, Choice):
            for option in node.options:
                if self._costs[option] < NEVER:
                    yield self.place(option, 0, rest)
        elif isinstance(node, Repeat):
            if at >= node.least or self._costs[node.item] == (0, 0):
                yield rest
            if (node.most is None or at < node.most) and self._costs[node.item] < NEVER:
                yield self.again(node, at, rest)
        elif isinstance(node, Rule):
            yield self.place(node.body, 0, rest)

    def item(self, node: Series, at: int, rest: Place) -> Place:
        """The place before item `at` of a series."""
        if at == len(node.items):
            return rest
        after = self.place(node, at + 1, rest) if at + 1 < len(node.items) else rest
        return self.place(node.items[at], 0, after)

    def again(self, node: Repeat, at: int, rest: Place) -> Place:
        """The place before one more of a repetition."""
        count = min(at + 1, node.least) if node.most is None else at + 1
        return self.place(
            node.item, 0, rest if count == node.most else self.place(node, count, rest)
        )

    def following(self, place: Place, group: int) -> State:
        """The places after a byte of this group at a place."""
        found = place.after.get(group)
        if found is None:
            found = place.after[group] = self.leaves(self.next(place, group))
        return found

    def next(self, place: Place, group: int) -> Place:
        node, rest = place.node, place.rest
        assert rest is not None
        if isinstance(node, Literal):
            return self.place(node, place.at + 1, rest) if place.at + 1 < len(node.data) else rest
        assert isinstance(node, Characters)
        tail = node.after[group]
        return rest if tail is None else self.place(tail, 0, rest)

    def _learn(self, number: int) -> None:
        state = self.states[number]
        places = state[1:] if self.complete(state) else state
        combinations, index = self._combined(tuple([groups(place) for place in places]))
        targets = [self._target(places, combination) for combination in combinations]
        self.table[number] = numpy.array(targets, numpy.int32)[index]
        self.known[number] = True

    def _combined(self, rows: tuple[bytes, ...]) -> tuple[list[tuple[int, ...]], numpy.ndarray]:
        """The different columns of the rows, and which of them each byte has."""
        found = self._groups.get(rows)
        if found is None:
            columns = list(zip(*rows)) or [()] * 256
            order = {column: index for index, column in enumerate(dict.fromkeys(columns))}
            index = numpy.array([order[column] for column in columns])
            found = self._groups[rows] = list(order), index
        return found

    def _target(self, places: State, combination: tuple[int, ...]) -> int:
        taken = [
            self.following(place, group)
            for place, group in zip(places, combination)
            if group != DEAD
        ]
        if len(taken) <= 1:
            return self.number(taken[0]) if taken else 0
        return self.number(tuple(sorted(set().union(*taken), key=_by_number)))


def is_before_byte(node: Node, at: int) -> bool:
    """Whether a byte of a literal comes next."""
    return isinstance(node, Literal) and at < len(node.data)


def _by_number(place: Place) -> int:
    return place.number


_SINGLE = [bytes(byte) + b"\1" + bytes(255 - byte) for byte in range(256)]


def groups(place: Place) -> bytes:
    """The group of each byte at a place before a byte; 0 where it cannot come."""
    node = place.node
    if isinstance(node, Literal):
        return _SINGLE[node.data[place.at]]
    assert isinstance(node, Characters)
    return node.groups

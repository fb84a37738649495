"""What a text may be: characters, sequences, choices, repetitions, and rules that may recur."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from minillm.generation.constraints import code_points
from minillm.generation.constraints.code_points import Ranges

DEAD = 0  # the group of bytes that cannot come


class Node:
    """A set of texts; equal only to itself."""

    __slots__ = ()

    @property
    def parts(self) -> Sequence[Node]:
        return ()


class Literal(Node):
    """Exactly these bytes."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Characters(Node):
    """One character of a set; with `tail`, what is left of one after its first bytes.

    `groups[byte]` numbers what follows that byte, `after[group]` is it: None where the character is
    complete. Group 0: the byte cannot come.
    """

    __slots__ = ("after", "groups", "ranges", "tail")

    def __init__(self, ranges: Ranges, tail: int = 0) -> None:
        self.ranges, self.tail = ranges, tail
        self.after: list[Characters | None] = [None]
        groups, numbers = bytearray(256), dict[tuple[int, Ranges] | None, int]()
        for byte, (more, rest) in code_points.first_bytes(ranges, tail).items():
            key = (more, rest) if more else None
            if key not in numbers:
                numbers[key] = len(self.after)
                self.after.append(characters(rest, more) if more else None)
            groups[byte] = numbers[key]
        self.groups = bytes(groups)


@functools.lru_cache(maxsize=1 << 14)
def characters(ranges: Ranges, tail: int = 0) -> Characters:
    """The one node of a set."""
    return Characters(ranges, tail)


class Series(Node):
    """One after the other."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Node]) -> None:
        self.items = tuple(items)

    @property
    def parts(self) -> Sequence[Node]:
        return self.items


class Choice(Node):
    """One of several; with none of them nothing can come."""

    __slots__ = ("options",)

    def __init__(self, options: Iterable[Node]) -> None:
        self.options = tuple(options)

    @property
    def parts(self) -> Sequence[Node]:
        return self.options


class Repeat(Node):
    """At least `least` and at most `most` (None: any number) in a row."""

    __slots__ = ("item", "least", "most")

    def __init__(self, item: Node, least: int = 0, most: int | None = None) -> None:
        self.item, self.least, self.most = item, least, most

    @property
    def parts(self) -> Sequence[Node]:
        return (self.item,)


class Rule(Node):
    """A name for a node that is given later, and may use the name itself."""

    __slots__ = ("body", "name")

    def __init__(self, name: str, body: Node | None = None) -> None:
        self.name = name
        self.body: Node = body if body is not None else NOTHING

    @property
    def parts(self) -> Sequence[Node]:
        return (self.body,)


NOTHING = Choice(())
EMPTY = Literal(b"")


def text(string: str) -> Literal:
    return Literal(string.encode("utf-8"))


def series(items: Iterable[Node]) -> Node:
    """One after the other; literals that meet become one."""
    joined: list[Node] = []
    for item in items:
        last = joined[-1] if joined else None
        if isinstance(item, Literal) and isinstance(last, Literal):
            joined[-1] = Literal(last.data + item.data)
        elif isinstance(item, Series):
            joined += item.items
        else:
            joined.append(item)
    return joined[0] if len(joined) == 1 else Series(joined)


def optional(node: Node) -> Node:
    return Choice((node, EMPTY))


def literals(strings: Iterable[bytes]) -> Node:
    """One of several texts; what they begin with alike is there once."""
    ordered = sorted(set(strings))
    if len(ordered) == 1:
        return Literal(ordered[0])
    options: list[Node] = [EMPTY] if ordered and not ordered[0] else []
    for _, together in groupby(filter(None, ordered), key=lambda data: data[0]):
        group = list(together)
        first, last = group[0], group[-1]
        same = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
        rest = literals(data[same:] for data in group)
        alone = len(group) == 1
        options.append(Literal(first) if alone else Series((Literal(first[:same]), rest)))
    return options[0] if len(options) == 1 else Choice(options)


def nodes(root: Node) -> list[Node]:
    """Every node below `root` and itself, parts before the whole except where a rule recurs."""
    ordered, seen = [], {root}
    todo: list[tuple[Node, Iterator[Node]]] = [(root, iter(root.parts))]
    while todo:
        node, parts = todo[-1]
        part = next(parts, None)
        if part is None:
            ordered.append(node)
            todo.pop()
        elif part not in seen:
            seen.add(part)
            todo.append((part, iter(part.parts)))
    return ordered

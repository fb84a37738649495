"""What is known of a language before any text: the cheapest texts, lengths, left recursion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from minillm.generation.constraints.language import (
    Characters,
    Choice,
    Literal,
    Node,
    Repeat,
    Rule,
    Series,
)

Cost = tuple[int, int]  # tokens, bytes
NEVER: Cost = (1 << 60, 0)


def cheapest(
    ordered: Sequence[Node], leaf: Callable[[Literal | Characters], Cost]
) -> tuple[dict[Node, Cost], dict[Choice, int]]:
    """The least cost of each node, NEVER where it has no text, and the option each choice takes.

    Following the options taken always comes to an end: one is replaced only by a cheaper one.
    """
    costs = dict.fromkeys(ordered, NEVER)
    picks: dict[Choice, int] = {}
    changed = True
    while changed:
        changed = False
        for node in ordered:
            cost = _cost(node, costs, leaf) if not node.parts else _sum(node, costs)
            if cost < costs[node]:
                costs[node], changed = cost, True
                if isinstance(node, Choice):
                    found = [costs[option] for option in node.options]
                    picks[node] = found.index(min(found))
    return costs, picks


def _cost(
    node: Node, costs: dict[Node, Cost], leaf: Callable[[Literal | Characters], Cost]
) -> Cost:
    if costs[node] != NEVER:
        return costs[node]
    if isinstance(node, Literal | Characters):
        return leaf(node)
    return (0, 0) if isinstance(node, Series) else NEVER


def _sum(node: Node, costs: dict[Node, Cost]) -> Cost:
    if isinstance(node, Choice):
        return min(costs[option] for option in node.options)
    if isinstance(node, Repeat):
        tokens, size = costs[node.item] if node.least else (0, 0)
        tokens, size = node.least * tokens, node.least * size
    else:
        tokens = sum(costs[part][0] for part in node.parts)
        size = sum(costs[part][1] for part in node.parts)
    return (tokens, size) if tokens < NEVER[0] else NEVER


def shortest(ordered: Sequence[Node]) -> dict[Node, Cost]:
    """The fewest bytes of each node: 0 where it may be empty, NEVER where it has no text."""

    def leaf(node: Literal | Characters) -> Cost:
        if isinstance(node, Literal):
            return len(node.data), 0
        return (len(chr(node.ranges[0][0]).encode("utf-8")), 0) if node.ranges else NEVER

    return cheapest(ordered, leaf)[0]


def left_recursion(ordered: Sequence[Node]) -> Rule | None:
    """A rule that can begin with itself, before any byte has come; None if there is none."""
    least = shortest(ordered)
    begun: dict[Node, bool] = {}  # whether it is finished
    for root in ordered:
        todo = [(root, iter(_firsts(root, least)))] if root not in begun else []
        begun.setdefault(root, False)
        while todo:
            node, firsts = todo[-1]
            part = next(firsts, None)
            if part is None:
                begun[node] = True
                todo.pop()
            elif part not in begun:
                begun[part] = False
                todo.append((part, iter(_firsts(part, least))))
            elif not begun[part]:
                around = [entry[0] for entry in todo]
                cycle = around[around.index(part) :]
                return next(found for found in cycle if isinstance(found, Rule))
    return None


def _firsts(node: Node, least: dict[Node, Cost]) -> Iterator[Node]:
    """The parts that the node may begin with."""
    for part in node.parts:
        yield part
        if isinstance(node, Series) and least[part] != (0, 0):
            return


def lengths(node: Node) -> tuple[int, float]:
    """The fewest and most characters of a node without rules that has texts."""
    if isinstance(node, Literal):
        return (len(node.data.decode("utf-8")),) * 2
    if isinstance(node, Characters):
        return (1, 1) if node.ranges else (1 << 60, -math.inf)
    parts = [lengths(part) for part in node.parts]
    if isinstance(node, Choice):
        return min((low for low, _ in parts), default=1 << 60), max(
            (high for _, high in parts), default=-math.inf
        )
    if isinstance(node, Repeat):
        low, high = parts[0]
        most = math.inf if node.most is None and high > 0 else high * (node.most or 0)
        return (low * node.least if node.least else 0), max(0.0, most)
    return sum(low for low, _ in parts), sum(high for _, high in parts)

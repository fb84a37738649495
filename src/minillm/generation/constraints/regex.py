"""Regular expressions in the syntax of Python's `re`, read by its own parser."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from re import _compiler, _parser  # type: ignore[attr-defined]
from re import _constants as codes  # type: ignore[attr-defined]
from typing import Any

from minillm.generation.constraints import code_points
from minillm.generation.constraints.constraint import Constraint, compiled
from minillm.generation.constraints.language import (
    EMPTY,
    NOTHING,
    Choice,
    Node,
    Repeat,
    characters,
    series,
    text,
)
from minillm.generation.constraints.regex_places import place_of
from minillm.tokenizers import Tokenizer

_BEGINS = (codes.AT_BEGINNING, codes.AT_BEGINNING_STRING)
_ENDS = (codes.AT_END, codes.AT_END_STRING)
_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)
_REFUSED = {
    codes.GROUPREF: "backreference",
    codes.GROUPREF_EXISTS: "conditional",
    codes.ASSERT: "lookaround",
    codes.ASSERT_NOT: "lookaround",
    codes.AT: "anchor or word boundary",
    codes.ATOMIC_GROUP: "atomic group",
    codes.POSSESSIVE_REPEAT: "possessive quantifier",
}
Items = list[tuple[Any, Any]]


def regex(pattern: str, tokenizer: Tokenizer) -> Constraint:
    """The whole text matches `pattern`, as `re.fullmatch` has it; flags are written (?i) and so on.

    \\d, \\w and \\s are Unicode's as in `re`; lazy quantifiers give the same texts as greedy ones.
    ValueError, with the place, for what no finite automaton does: backreferences, conditionals,
    lookaround, atomic groups, possessive quantifiers; for \\b, \\B and anchors that are not at an
    end; for a pattern that is not valid, that matches nothing, or that the vocabulary cannot write.
    """
    return compiled("regex", pattern, tokenizer, lambda: pattern_node(pattern))


def pattern_node(pattern: str, search: bool = False) -> Node:
    """The texts that match `pattern`, with `search` those that hold a match."""
    try:
        parsed = _parser.parse(pattern)
        flags = parsed.state.flags
        return _Reader(pattern, flags).whole(list(parsed), flags, search)
    except re.error as error:
        at = "" if error.pos is None else f" at position {error.pos}"
        raise ValueError(f"regex: {error.msg}{at}, a valid pattern is needed") from None
    except (RecursionError, OverflowError) as error:
        raise ValueError(f"regex: {error}, a smaller pattern is needed") from None


class _Reader:
    """Makes nodes of what `re` parsed. `starts` and `stops`: whether an anchor may stand there."""

    def __init__(self, pattern: str, flags: int) -> None:
        self._pattern, self._flags = pattern, flags

    def whole(self, items: Items, flags: int, search: bool) -> Node:
        """The pattern with what may stand around it: nothing, or with `search` anything."""
        if not search:
            return self.series(items, flags, True, True)
        for at in (0, len(items) - 1) if items else ():
            op, value = items[at]
            around = items[:at], items[at + 1 :]
            if op is codes.BRANCH and holds_anchor(items[at]):
                ways = [[*around[0], *option, *around[1]] for option in value[1]]
                return Choice([self.whole(way, flags, True) for way in ways])
            if op is codes.SUBPATTERN and not (value[1] or value[2]) and holds_anchor(items[at]):
                return self.whole([*around[0], *value[3], *around[1]], flags, True)
        anchored = [is_anchor(items[:1], _BEGINS), is_anchor(items[-1:], _ENDS)]
        anything = Repeat(characters(code_points.ANY))
        before, after = (EMPTY if fixed else anything for fixed in anchored)
        inner = self.series(items, flags, anchored[0], anchored[1])
        return series((before, inner, after))

    def series(self, items: Items, flags: int, starts: bool, stops: bool) -> Node:
        """Items in a row; an anchor is allowed where nothing can come before, or after."""
        edge_first = next((i for i, item in enumerate(items) if not is_anchor([item], _BEGINS)), 0)
        edge_last = len(items) - next(
            (i for i, item in enumerate(reversed(items)) if not is_anchor([item], _ENDS)), 0
        )
        found = [
            self.node(op, value, flags, starts and i <= edge_first, stops and i >= edge_last - 1)
            for i, (op, value) in enumerate(items)
        ]
        return series(found)

    def node(self, op: Any, value: Any, flags: int, starts: bool, stops: bool) -> Node:
        if op in _REPEATS:
            least, most, item = value
            once = most == 1
            body = self.series(list(item), flags, starts and once, stops and once)
            return Repeat(body, int(least), None if most is codes.MAXREPEAT else int(most))
        if op is codes.BRANCH:
            return Choice([self.series(list(one), flags, starts, stops) for one in value[1]])
        if op is codes.SUBPATTERN:
            _, add, remove, body = value
            return self.series(list(body), combined(flags, add, remove), starts, stops)
        if op is codes.AT and ((starts and value in _BEGINS) or (stops and value in _ENDS)):
            if not flags & re.MULTILINE:
                return EMPTY
        elif op is codes.FAILURE:
            return NOTHING
        elif op not in _REFUSED:
            return self.character(op, value, flags)
        at = place_of(self._pattern, op, bool(self._flags & re.VERBOSE))
        raise ValueError(
            f"regex: {_REFUSED[op]} at position {at}, a regular expression without it is needed"
        )

    def character(self, op: Any, value: Any, flags: int) -> Node:
        if op is codes.LITERAL and not flags & re.IGNORECASE and not 0xD800 <= value <= 0xDFFF:
            return text(chr(value))
        value = tuple(value) if isinstance(value, list) else value
        listed = None if flags & re.IGNORECASE else listed_characters(op, value)
        return characters(listed or matched(op, value, flags & ~re.VERBOSE))


def combined(flags: int, add: int, remove: int) -> int:
    """The flags inside (?add-remove:...); of a, u and L there is only one."""
    kinds = re.ASCII | re.UNICODE | re.LOCALE
    return ((flags & ~kinds if add & kinds else flags) | add) & ~remove


def listed_characters(op: Any, value: Any) -> code_points.Ranges | None:
    """Those of a class that lists characters and ranges alone; None for anything else."""
    if op is not codes.IN:
        return None
    pairs = [
        item if kind is codes.RANGE else (item, item)
        for kind, item in value
        if kind in (codes.LITERAL, codes.RANGE)
    ]
    negated = value[0][0] is codes.NEGATE
    if len(pairs) + negated < len(value):
        return None
    found = code_points.ranges(pairs)
    return code_points.but(code_points.ANY, found) if negated else found


@lru_cache(maxsize=256)
def matched(op: Any, value: Any, flags: int) -> code_points.Ranges:
    """The characters that one item of a pattern matches: `re` itself is asked for each there is."""
    state = _parser.State()
    state.flags = flags
    item = op, list(value) if isinstance(value, tuple) else value
    one = _parser.SubPattern(state, [item])
    many = _parser.SubPattern(state, [(codes.MAX_REPEAT, (1, codes.MAXREPEAT, one))])
    found = _compiler.compile(many, flags).finditer(_all_characters())
    return code_points.ranges((match.start(), match.end() - 1) for match in found)


@lru_cache(maxsize=1)
def _all_characters() -> str:
    return "".join(map(chr, range(sys.maxunicode + 1)))


def is_anchor(items: Iterable[tuple[Any, Any]], which: tuple[Any, Any]) -> bool:
    return any(op is codes.AT and value in which for op, value in items)


def holds_anchor(item: tuple[Any, Any]) -> bool:
    """Whether there is an anchor anywhere in an alternation or a group."""
    op, value = item
    if op is codes.BRANCH:
        return any(holds_anchor(part) for option in value[1] for part in option)
    if op is codes.SUBPATTERN:
        return any(map(holds_anchor, value[3]))
    return op is codes.AT

"""The text of JSON: white space, strings, numbers, members, elements."""

from __future__ import annotations

import json
from collections.abc import Sequence

from minillm.generation.constraints import code_points
from minillm.generation.constraints.language import (
    EMPTY,
    NOTHING,
    Characters,
    Choice,
    Literal,
    Node,
    Repeat,
    Rule,
    Series,
    characters,
    literals,
    optional,
    series,
    text,
)

INDENT = 12  # spaces at most, after a line break
DIGITS = 15  # of a number: as many as a float keeps
SPACE: Node = optional(text(" "))
BREAK: Node = Choice((EMPTY, text(" "), Series((text("\n"), Repeat(text(" "), 0, INDENT)))))

DIGIT = characters(((ord("0"), ord("9")),))
SIGN = optional(text("-"))
_HEX = characters(code_points.of("0123456789abcdefABCDEF"))
RAW = code_points.but(code_points.ANY, code_points.ranges([(0, 31), (34, 34), (92, 92)]))


def _hex_from(letters: str, second: str) -> Node:
    """Four hexadecimal digits, of which the first two are limited."""
    return series((characters(code_points.of(letters)), characters(code_points.of(second)))
                  + (_HEX,) * 2)  # fmt: skip


_HALF = "89aAbB"
_UNIT = Choice(  # of UTF-16, no half of a pair
    (
        series((characters(code_points.of("0123456789abcefABCEF")), _HEX, _HEX, _HEX)),
        _hex_from("dD", "01234567"),
    )
)
_ESCAPED = Choice(
    (
        characters(code_points.of('"\\/bfnrt')),
        series((text("u"), _UNIT)),
        series((text("u"), _hex_from("dD", _HALF), text("\\u"), _hex_from("dD", "cdefCDEF"))),
    )
)
CHARACTER = Choice((characters(RAW), series((text("\\"), _ESCAPED))))  # one code point


def string(least: int = 0, most: int | None = None) -> Node:
    """A string of `least` to `most` characters (code points)."""
    return series((text('"'), Repeat(CHARACTER, least, most), text('"')))


def quoted(node: Node) -> Node:
    """A string whose value is a text of `node`, which has no rules."""
    return series((text('"'), escaped(node), text('"')))


def escaped(node: Node) -> Node:
    """The texts of `node` as they are written inside a string."""
    if isinstance(node, Literal):
        return text(json.dumps(node.data.decode("utf-8"), ensure_ascii=False)[1:-1])
    if isinstance(node, Characters):
        raw = characters(code_points.common(node.ranges, RAW))
        others = code_points.but(node.ranges, RAW)
        written = [
            json.dumps(chr(point))[1:-1].encode()
            for low, high in others
            for point in range(low, high + 1)
        ]
        return Choice((raw, literals(written))) if written else raw
    if isinstance(node, Repeat):
        return Repeat(escaped(node.item), node.least, node.most)
    parts = [escaped(part) for part in node.parts]
    return Choice(parts) if isinstance(node, Choice) else series(parts)


def number() -> Node:
    """Any finite number."""
    whole = Choice((text("0"), series((nonzero(), Repeat(DIGIT, 0, DIGITS - 1)))))
    fraction = optional(series((text("."), Repeat(DIGIT, 1, DIGITS))))
    sign = characters(code_points.of("+-"))
    power = series((characters(code_points.of("eE")), optional(sign), Repeat(DIGIT, 1, 2)))
    return series((SIGN, whole, fraction, optional(power)))


def nonzero() -> Node:
    return characters(((ord("1"), ord("9")),))


def value(data: object) -> bytes:
    """The text of a value, without white space."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def member(key: Node, content: Node) -> Node:
    return series((key, text(":"), SPACE, content))


def array(prefix: Sequence[Node], rest: Node, least: int, most: int | None) -> Node:
    """Elements: those of `prefix` in their places, then any number of `rest`."""
    comma = series((text(","), BREAK))
    count = len(prefix) if most is None else min(len(prefix), most)
    left = None if most is None else most - count
    tail: Node = Repeat(series((comma, rest)), max(0, least - count), left)
    if not count:
        more = None if most is None else most - 1
        some = series((rest, Repeat(series((comma, rest)), max(0, least - 1), more)))
        tail = NOTHING if most == 0 else some
    for index in reversed(range(count)):
        before = EMPTY if index == 0 else comma
        more_of_it = series((before, prefix[index], tail))
        stops = index > 0 and index >= least
        tail = Choice((EMPTY, more_of_it)) if stops else more_of_it
    content: Node = series((BREAK, tail, BREAK))
    if least == 0:
        content = Choice((EMPTY, content))
    return series((text("["), content, text("]")))


def object_(
    members: Sequence[tuple[Node, bool]], extra: Node, least: int, most: int | None
) -> Node:
    """Members in their order, (member, whether it must be there), then `least` to `most` extras."""
    comma = series((text(","), BREAK))
    more = None if most is None else max(0, most - 1)
    again: Node = Repeat(series((comma, extra)), least, most)
    some: Node = series((extra, Repeat(series((comma, extra)), max(0, least - 1), more)))
    first: Node = NOTHING if most == 0 else some  # where nothing stands before it
    empty = least == 0
    for content, required in reversed(members):
        first = Choice((Series((content, again)), NOTHING if required else first))
        follows = Series((comma, content, again))
        again = follows if required else Choice((follows, again))
        empty = empty and not required
    inside: Node = series((BREAK, first, BREAK))
    if empty:
        inside = Choice((EMPTY, inside))
    return series((text("{"), inside, text("}")))


def key_but(names: Sequence[str]) -> Node:
    """A key without escapes that is none of `names`."""
    return series((text('"'), _but("", set(names)), text('"')))


def _but(before: str, names: set[str]) -> Node:
    """What a key may go on with after `before`."""
    anything = Repeat(characters(RAW))
    if not names:
        return anything
    at = len(before)
    following = sorted({name[at] for name in names if len(name) > at})
    options: list[Node] = [] if before in names else [EMPTY]
    others = code_points.but(RAW, code_points.of("".join(following)))
    options.append(series((characters(others), anything)))
    for letter in following:
        if code_points.contains(RAW, ord(letter)):
            longer = {name for name in names if name.startswith(before + letter)}
            options.append(series((text(letter), _but(before + letter, longer))))
    return Choice(options)


def anything() -> Node:
    """Any value at all."""
    rule = Rule("any value")
    rule.body = Choice(
        (
            string(),
            number(),
            literals((b"true", b"false", b"null")),
            array((), rule, 0, None),
            object_((), member(key_but(()), rule), 0, None),
        )
    )
    return rule

"""The notation GBNF: rules, literals, classes, groups, repetitions, comments."""

from __future__ import annotations

import re

from minillm.generation.constraints import code_points
from minillm.generation.constraints.language import (
    EMPTY,
    Choice,
    Node,
    Repeat,
    Rule,
    characters,
    series,
    text,
)

ROOT = "root"
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_ESCAPE = re.compile(r'\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([trn\\"\[\]]))')
_SIMPLE = {"t": "\t", "r": "\r", "n": "\n"}
_COUNTS = re.compile(r"\{[ \t]*(\d+)[ \t]*(,[ \t]*(\d*)[ \t]*)?\}")


class Parser:
    """Reads rules; `lines` are those where each is defined. ValueError as in `grammar`."""

    def __init__(self, rules: str) -> None:
        self._text, self._at = rules, 0
        self._rules: dict[str, Rule] = {}
        self._used: dict[str, int] = {}  # where a rule is first used
        self.lines: dict[str, int] = {}  # where it is defined

    def root(self) -> Rule:
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._text):
            self._rule()
            self._skip(_SPACE_AND_LINES)
        for name, line in self._used.items():
            if name not in self.lines:
                raise ValueError(f"grammar: line {line}: rule {name} is not defined, it is needed")
        if ROOT not in self.lines:
            raise ValueError(f"grammar: no rule is named {ROOT}, it is needed to begin with")
        return self._rules[ROOT]

    def _rule(self) -> None:
        name, line = self._name(), self._line()
        if name in self.lines:
            raise self._error(f"rule {name} is defined in line {self.lines[name]} already")
        self.lines[name] = line
        self._skip(_SPACE)
        self._expect("::=")
        self._skip(_SPACE_AND_LINES)
        self._named(name).body = self._choice(_SPACE)
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            raise self._error(f"{self._text[self._at]!r}, the end of the line is needed")

    def _choice(self, space: re.Pattern[str]) -> Node:
        options = [self._series(space)]
        while self._take("|"):
            self._skip(_SPACE_AND_LINES)
            options.append(self._series(space))
        return options[0] if len(options) == 1 else Choice(options)

    def _series(self, space: re.Pattern[str]) -> Node:
        items: list[Node] = []
        while (item := self._item()) is not None:
            self._skip(space)
            items.append(self._repeated(item, space))
        return series(items) if items else EMPTY

    def _item(self) -> Node | None:
        if self._take('"'):
            return self._literal()
        if self._take("["):
            return self._class()
        if self._take("("):
            self._skip(_SPACE_AND_LINES)
            inside = self._choice(_SPACE_AND_LINES)
            self._expect(")")
            return inside
        if self._take("."):
            return characters(code_points.ANY)
        if self._text.startswith(("<", "!<"), self._at):
            raise self._error("tokens (<...>) are not supported, their text is needed")
        if _NAME.match(self._text, self._at):
            line = self._line()
            name = self._name()
            self._used.setdefault(name, line)
            return self._named(name)
        return None

    def _repeated(self, item: Node, space: re.Pattern[str]) -> Node:
        while self._at < len(self._text):
            sign = self._text[self._at]
            counts = _COUNTS.match(self._text, self._at)
            if sign in "*+?":
                self._at += 1
                item = Repeat(item, int(sign == "+"), 1 if sign == "?" else None)
            elif counts:
                least, comma, most = int(counts[1]), counts[2], counts[3]
                high = least if comma is None else int(most) if most else None
                if high is not None and high < least:
                    raise self._error(f"{{{least},{high}}}, the second count is below the first")
                self._at = counts.end()
                item = Repeat(item, least, high)
            else:
                break
            self._skip(space)
        return item

    def _literal(self) -> Node:
        points = []
        while not self._take('"'):
            points.append(self._point("a literal", "\r\n"))
        return text("".join(map(chr, points)))

    def _class(self) -> Node:
        negated, pairs = self._take("^"), []
        while not self._take("]"):
            low = high = self._point("a class", "\r\n")
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = self._point("a class", "\r\n]")
                if high < low:
                    raise self._error(f"the range {chr(low)!r} to {chr(high)!r} is empty")
            pairs.append((low, high))
        found = code_points.ranges(pairs)
        found = code_points.but(code_points.ANY, found) if negated else found
        if not found:
            raise self._error("a class without characters, at least one is needed")
        return characters(found)

    def _point(self, what: str, ends: str) -> int:
        """One character of a literal or class, or an escape."""
        if self._at >= len(self._text) or self._text[self._at] in ends:
            raise self._error(f"{what} is not closed")
        if self._text[self._at] != "\\":
            self._at += 1
            point = ord(self._text[self._at - 1])
        else:
            found = _ESCAPE.match(self._text, self._at)
            if found is None:
                raise self._error(f"{self._text[self._at : self._at + 2]!r} is no escape")
            self._at = found.end()
            digits = found[1] or found[2] or found[3]
            point = int(digits, 16) if digits else ord(_SIMPLE.get(found[4], found[4]))
        if 0xD800 <= point <= 0xDFFF or point > code_points.LAST:
            raise self._error(f"{point:#x} is no character")
        return point

    def _named(self, name: str) -> Rule:
        return self._rules.setdefault(name, Rule(name))

    def _name(self) -> str:
        found = _NAME.match(self._text, self._at)
        if found is None:
            raise self._error(f"{self._text[self._at]!r}, the name of a rule is needed")
        self._at = found.end()
        return found[0]

    def _take(self, sign: str) -> bool:
        found = self._text.startswith(sign, self._at)
        self._at += len(sign) if found else 0
        return found

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            there = repr(self._text[self._at]) if self._at < len(self._text) else "the end"
            raise self._error(f"{there}, {sign} is needed")

    def _skip(self, space: re.Pattern[str]) -> None:
        found = space.match(self._text, self._at)
        assert found is not None
        self._at = found.end()

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _error(self, fact: str) -> ValueError:
        return ValueError(f"grammar: line {self._line()}: {fact}")

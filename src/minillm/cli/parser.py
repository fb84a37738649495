"""The parser of the command line. What it refuses is told in the form of all other errors."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from typing import Any, NoReturn

USAGE = 2  # exit code


class Parser(argparse.ArgumentParser):
    """One line and exit code 2 for what cannot be parsed.

    A command's file is imported, and asked for its options, when they are first needed.
    """

    command = ""  # whose options are still to be added

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._words: list[str] = []  # that are parsed
        self._mixing = False  # options and arguments in any order are being taken apart
        self.register("type", int, whole)
        self.register("type", float, real)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # also -1e3, as from Python 3.14 on

    def fill(self) -> None:
        if self.command:
            module = importlib.import_module(f"minillm.cli.{self.command.replace('-', '_')}")
            self.command = ""
            module.add_arguments(self)
            self.set_defaults(run=module.run)

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """As argparse does, but arguments may stand on both sides of an option: `a --top 3 b`."""
        self.fill()
        if self._mixing:
            return super().parse_known_args(*arguments, **options)
        self._words = list(sys.argv[1:] if not arguments or arguments[0] is None else arguments[0])
        if self._subparsers is not None:
            return super().parse_known_args(*arguments, **options)
        self._mixing = True
        try:
            return self.parse_known_intermixed_args(*arguments, **options)
        finally:
            self._mixing = False

    def error(self, message: str) -> NoReturn:
        """`message` in argparse's words."""
        program, _, command = self.prog.removeprefix("python -m ").partition(" ")
        subject = f"{command}: " if command else ""
        self.exit(USAGE, f"{program}: {self._refusal(message, subject)}\n")

    def _refusal(self, message: str, subject: str) -> str:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            return refusal(message, subject) + self._hint(message) + self._taken(message)
        word = next((part for part in unknown.split() if part.startswith("-")), "")
        if not word:
            return f"{subject}unexpected argument {unknown}, none is needed"
        from minillm.words import meant

        rest = meant(word.partition("=")[0], self.known_flags(), f"; {self.prog} --help lists all")
        return f"{subject}unknown option {word}{rest}"

    def _hint(self, message: str) -> str:
        """How to write a value that looks like an option."""
        match = re.fullmatch(r"argument (--\S+): expected one argument", message)
        after = self._words.index(match[1]) + 1 if match and match[1] in self._words else 0
        value = self._words[after] if 0 < after < len(self._words) else ""
        known = self._option_string_actions
        if not match or not value.startswith("-") or value in known or known[match[1]].type:
            return ""
        return f"; for a text that begins with -: {match[1]}={shlex.quote(value)}"

    def _taken(self, message: str) -> str:
        """Which option may have taken the argument that is missing."""
        if not re.fullmatch(r"the following arguments are required: [^-].*", message):
            return ""
        given = {word.partition("=")[0] for word in self._words}
        greedy = [
            option
            for action in self._actions
            for option in action.option_strings
            if action.nargs in ("+", "*") and option in given
        ]
        return f"; put it before {greedy[0]}, which takes all words after it" if greedy else ""

    def known_flags(self) -> list[str]:
        """Every long option of this parser and its subcommands."""
        self.fill()
        flags: list[str] = []
        for action in self._actions:
            flags += [flag for flag in action.option_strings if flag.startswith("--")]
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    flags += parser.known_flags()
        return sorted(set(flags))


class Once(argparse.Action):
    """A value that is given once: the last of several would silently be the one."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "given twice, one is needed")
        setattr(namespace, self.dest, values)


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, a whole number is needed") from None


def real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, a number is needed") from None


FORMS = (  # what argparse says, and what is said in its place; {0} is the command
    (r"the following arguments are required: (.+)", "{0}no {1} given, a value is needed"),
    (r"one of the arguments (.+) is required", "{0}nothing given, one of {1} is needed"),
    (r"argument (\S+): not allowed with argument (\S+)",
     "{1} and {2}: they contradict each other, one of them is needed"),
    (r"argument (\S+): expected (.+) arguments?", "{1}: no value given, {2} is needed"),
    (r"argument (\S+): ignored explicit argument (.+)", "{1}: {2} given, no value is needed"),
    (r"argument (\S+): (.+)", "{1}: {2}"),
)  # fmt: skip


def refusal(message: str, subject: str) -> str:
    """An error of argparse in our words; `subject` begins those of a command, "generate: "."""
    choice = re.fullmatch(r"argument (\S+): invalid choice: '(.*)'.* \(choose from (.*)\)", message)
    if choice is not None:
        from minillm.words import nearest

        known = choice[3].replace("'", "").split(", ")
        near = nearest(choice[2], known)
        hint = f"; did you mean {near}?" if near else ""
        name = choice[1].lstrip("-")
        return f"{name}: {choice[2]!r}, one of {', '.join(known)} is needed{hint}"
    for said, form in FORMS:
        match = re.fullmatch(said, message, re.DOTALL)
        if match is not None:
            names = match.groups()
            if said.startswith("argument"):
                names = tuple(name.lstrip("-") for name in names)
            return form.format(subject, *names)
    return f"{subject}{message}"

"""What a person types, or a pipe gives, line by line; and Ctrl-C while something is written."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType

from minillm.cli.main import tell
from minillm.cli.texts import decoded

FENCE = '"""'  # around a message of several lines


class Messages:
    """Messages from standard input, one a line, or of several lines between two fences.

    At a terminal there are prompts, line editing and a history: in memory, or in `history` as well,
    a file. A pipe is read as UTF-8 and asked for nothing.
    """

    def __init__(self, history: str | None = None) -> None:
        self.interactive = sys.stdin.isatty()
        self._edited = self.interactive and sys.stdout.isatty()
        self._lines = 0
        self._history, self._readline = history, _readline() if self._edited else None
        if history is None:
            return
        if self._readline is None:
            tell("minillm: note: --history keeps what is typed at a terminal, this is none")
        elif Path(history).exists():
            self._readline.read_history_file(history)
        elif not Path(history).absolute().parent.is_dir():
            raise FileNotFoundError(f"history: there is no folder for {history}, one is needed")

    def next(self) -> str | None:
        """The next message, None at the end. ValueError for one without end or not in UTF-8."""
        line = self._line("> ")
        if line is None or not line.startswith(FENCE):
            return line
        lines = [line.removeprefix(FENCE)]
        while not lines[-1].endswith(FENCE):
            line = self._line(". ")
            if line is None:
                raise ValueError(
                    f"chat: a message begun with {FENCE} has no end, {FENCE} is needed"
                )
            lines.append(line)
        return "\n".join(lines).removesuffix(FENCE).strip("\n")

    def save_history(self) -> None:
        """Write what was typed to the file of the history; OSError where that fails."""
        if self._readline is not None and self._history is not None:
            self._readline.write_history_file(self._history)

    def _line(self, prompt: str) -> str | None:
        """A line without its end; None at the end of the input."""
        if self._edited:
            try:
                with _waking():
                    return input(prompt)
            except EOFError:
                return None
        if self.interactive:
            sys.stderr.write(prompt)
            sys.stderr.flush()
        self._lines += 1
        with _waking():
            line = sys.stdin.buffer.readline()
        if not line:
            return None
        text = decoded(line, "chat", f"line {self._lines} of standard input")
        return text.removesuffix("\n").removesuffix("\r")


class Stop:
    """Whether Ctrl-C asked for an end; `requested` stays True until the next block."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self, at_terminal: bool) -> Iterator[None]:
        """Inside, the first Ctrl-C only asks; a second raises KeyboardInterrupt as ever.

        Away from a terminal, or from the main thread, every Ctrl-C does what it always does.
        """
        self.requested = False
        if not at_terminal or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def _waking() -> Iterator[None]:
    """Inside, a read that blocks wakes now and then: it misses a Ctrl-C that came just before."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _readline() -> ModuleType | None:
    """The module that edits lines, where this Python has it."""
    with suppress(ImportError):
        import readline

        return readline
    return None

"""How far a long command is, how fast it goes and how long it will take, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from minillm.quantities import count, duration
from minillm.training.console import Console

FIRST, TERMINAL, LINES = 2.0, 0.2, 30.0  # seconds until something is shown, then between
PIECES, SHARE = 3, 0.05  # of the work, until its speed, and the time left, are more than a guess


@contextmanager
def meter(
    unit: str, total: int | None = None, *, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Callable[[int], None]]:
    """Gives what is to be told of each piece of work done, in `unit` ("tokens").

    A terminal has one line that is written anew and goes away in the end; anything else gets a line
    twice a minute. What takes less than two seconds is not spoken of, and a speed is told from the
    third piece on, the time left from a twentieth of the work on.
    """
    console, begin = Console(sys.stderr), clock()
    lively = console.isatty()
    done, pieces, due, width = 0, 0, begin + FIRST, 0

    def tell(piece: int) -> None:
        nonlocal done, pieces, due, width
        done += piece
        pieces += 1
        now = clock()
        if now < due:
            return
        due = now + (TERMINAL if lively else LINES)
        line = f"{count(done)}{'' if total is None else f' of {count(total)}'} {unit}"
        if pieces >= PIECES and done:
            rate = done / (now - begin)
            line += f", {count(rate)} a second"
            if total is not None and SHARE * total <= done < total:
                line += f", {duration((total - done) / rate)} left"
        if lively:
            console.write(f"\r{line.ljust(width)}")
            width = len(line)
        else:
            console.write(line + "\n")

    try:
        yield tell
    finally:
        if width:
            console.write(f"\r{' ' * width}\r")

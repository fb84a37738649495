"""JSON lines that only grow, one training step a row: a kill tears one line at most."""

from __future__ import annotations

import json
import operator
import os
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from minillm.formats.files import atomic_write

Row = dict[str, Any]


class StepLog:
    """Rows `{"step": n, ...}`, each written as one whole line, steps never falling.

    `resume_step=None` starts a log: FileExistsError where rows already stand. `resume_step=n` goes
    on after step n: rows beyond n and a torn last line are dropped, and `notice` says so (None
    when nothing was dropped). ValueError, with the line number, for any other damage.
    """

    def __init__(self, path: str | os.PathLike[str], resume_step: int | None = None) -> None:
        self.path = Path(path)
        self.notice: str | None = None
        self._last_step = 0
        if resume_step is not None:
            self._cut(resume_step)
        elif self.path.exists() and self.path.stat().st_size:
            raise FileExistsError(
                f"{self.path}: holds rows of an earlier run, a new run needs a new folder;"
                " resume that run or name another folder"
            )
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def append(self, *, step: int, **values: object) -> None:
        """Write one row; a value of None is left out.

        ValueError if `step` falls or a value has no JSON. An OSError (disk full) leaves the file
        as it was before the call.
        """
        step = operator.index(step)
        if step < self._last_step:
            raise ValueError(
                f"{self.path.name}: step {step} after step {self._last_step}, steps must not fall"
            )
        row = {"step": step} | {k: _plain(v) for k, v in values.items() if v is not None}
        try:
            line = json.dumps(row, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"{self.path.name}: step {step}: {error}, needs plain JSON") from error
        self._write(line.encode("ascii") + b"\n")
        self._last_step = step

    def close(self) -> None:
        """Put every row on disk and close the file; a second call does nothing."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except BaseException:
            self._file.truncate(end)
            raise

    def _cut(self, resume_step: int) -> None:
        if not self.path.exists():
            if resume_step > 0:  # up to step 0 there is nothing to miss
                self.notice = f"{self.path.name}: missing, begins again after step {resume_step}"
            return
        rows, lines, torn = _parse(self.path)
        kept = [i for i, row in enumerate(rows) if row["step"] <= resume_step]
        self._last_step = max((rows[i]["step"] for i in kept), default=0)
        data = b"".join(lines[i] + b"\n" for i in kept)
        if data == self.path.read_bytes():
            return
        with atomic_write(self.path) as file:
            file.write(data)
        dropped = len(rows) - len(kept)
        parts = [f"{dropped} row{'s' * (dropped > 1)} after step {resume_step}"] if dropped else []
        parts += ["a torn last line"] if torn else []
        self.notice = f"{self.path.name}: dropped {' and '.join(parts)}" if parts else None


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a log. One torn last line is left out; ValueError for any other damage."""
    return _parse(Path(path))[0]


def _parse(path: Path) -> tuple[list[Row], list[bytes], bool]:
    """Rows, the bytes of their lines, and whether a torn line followed them."""
    *lines, tail = path.read_bytes().split(b"\n")
    rows: list[Row] = []
    torn = False
    for number, line in enumerate(lines + [tail] * bool(tail), start=1):
        place = f"{path.name} line {number}"
        try:
            row = json.loads(line.decode("utf-8"), parse_constant=_refuse)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            if number > len(lines):
                torn = True
                break
            raise ValueError(f"{place}: {error}, needs one JSON object a line") from error
        except ValueError as error:
            raise ValueError(f"{place}: {error}, needs strict JSON") from error
        _check(row, rows[-1]["step"] if rows else 0, place)
        rows.append(row)
    if tail and not torn:
        lines.append(tail)
    return rows, lines, torn


def _check(row: object, last_step: int, place: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a {type(row).__name__}, needs a JSON object")
    step = row.get("step")
    if type(step) is not int or not last_step <= step < 2**63:
        raise ValueError(f"{place}: step {step!r}, needs a whole number of at least {last_step}")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"the number {constant} is not JSON")


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value

"""Runs of the command line that are killed (SIGKILL) at a chosen moment of writing."""

import multiprocessing
import os
import signal
from pathlib import Path

from minillm.training.steplog import StepLog
from small_runs import minillm

# A server that has imported everything, from which processes fork: they start in no time.
SERVER = multiprocessing.get_context("forkserver" if os.name != "nt" else "spawn")
SERVER.set_forkserver_preload(["small_kills", "minillm.training.tuning", "minillm.tasks.tuning"])


def killed(moment: int, folder: Path, *words: object) -> bool:
    """Whether `minillm words` in `folder` lived until its `moment`-th moment, where it is killed.

    The moments are those before a file takes its name, and in the middle of a line of a log. A run
    that has fewer must end well.
    """
    process = SERVER.Process(target=_run, args=(moment, str(folder), [str(w) for w in words]))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), words
    return process.exitcode != 0


def _run(moment: int, folder: str, words: list[str]) -> None:
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    left = moment
    replace, write = os.replace, StepLog._write

    def reached() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def replaced(source: str, target: str) -> None:
        if reached():
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    def written(log: StepLog, line: bytes) -> None:
        if reached():
            write(log, line[: len(line) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(log, line)

    os.replace, StepLog._write = replaced, written
    os._exit(minillm(*words))

"""Ctrl-C and SIGTERM sent to a real process: before the first step, once, and twice."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from minillm.training.interrupt import Interrupt, terminate_as_interrupt
from small_runs import command, environment, flags, minillm, story, written

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
SIGNALS = [signal.SIGINT, signal.SIGTERM]
WAITS = """
import sys
from minillm.cli.main import main
from minillm.training.trainer import Trainer
evaluate = Trainer.evaluate
def waiting(run, *arguments):
    if run.counters.step:  # before, the time of a validation is measured
        print("evaluating", flush=True)
        sys.stdin.read()
    return evaluate(run, *arguments)
Trainer.evaluate = waiting
raise SystemExit(main(sys.argv[1:]))
"""


def started(folder, words):
    return subprocess.Popen(
        words,
        cwd=folder,
        env=environment(TMPDIR=str(folder / "tmp")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.fixture
def evaluating(tmp_path):
    """A run that waits in its first validation, after step 4, until standard input ends."""
    (tmp_path / "tmp").mkdir()
    written(tmp_path / "s.txt")
    words = [sys.executable, "-c", WAITS, "train", "s.txt", "--out", "run", *flags()]
    with started(tmp_path, words) as process:
        assert process.stdout.readline() == "evaluating\n"
        yield process
        process.kill()


def read_until(stream, beginning):
    for line in stream:
        if line.startswith(beginning):
            return
    raise AssertionError(f"{beginning!r} was never said")


@pytest.mark.parametrize("number", SIGNALS)
def test_one_signal_saves_and_says_how_to_go_on(tmp_path, evaluating, number, monkeypatch):
    evaluating.send_signal(number)
    read_until(evaluating.stderr, "stopping: saving first; once more to leave at once")
    _, said = evaluating.communicate()
    assert evaluating.returncode == 130
    assert said.endswith("saved after step 4; go on with:\n  minillm train --resume run\n")
    monkeypatch.chdir(tmp_path)
    assert minillm("train", "--resume", "run") == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_leaves_at_once(tmp_path, evaluating, number, monkeypatch):
    evaluating.send_signal(number)
    read_until(evaluating.stderr, "stopping: saving first; once more to leave at once")
    evaluating.send_signal(number)
    evaluating.wait(20)  # it is still evaluating
    assert evaluating.returncode == 128 + number
    assert evaluating.stderr.read() == ""
    saved = [path.name for path in (tmp_path / "run/training").glob("state-*")]
    assert saved == ["state-00000000.safetensors"]
    monkeypatch.chdir(tmp_path)
    assert minillm("train", "--resume", "run") == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_preflight_leaves_nothing_behind(tmp_path, number):
    (tmp_path / "tmp").mkdir()
    with started(tmp_path, command("train", "-", "--out", "a/run")) as process:
        process.stdin.write(story(3))
        process.stdin.flush()
        # The copy of standard input; tempfile, too, tries the folder with a file of its own.
        while not list((tmp_path / "tmp").glob("minillm-*")):
            assert process.poll() is None
        assert (tmp_path / "a/run").exists()
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait() == 130
        assert said == "\ninterrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert not list((tmp_path / "tmp").iterdir())


def test_handlers_come_back_and_other_threads_are_left_alone():
    before = [signal.getsignal(number) for number in SIGNALS]
    said = []
    with Interrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.requested
    with pytest.raises(KeyboardInterrupt), terminate_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before

    def elsewhere():
        with Interrupt(), terminate_as_interrupt():
            assert [signal.getsignal(number) for number in SIGNALS] == before
            said.append("fine")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert said == ["fine"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_closed_terminal_asks_to_save():
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGHUP)
        assert interrupt.requested

"""How far a long command is: nothing of short ones, a line now and then, one line on a terminal."""

import io
import sys

import pytest

from minillm.cli.meter import meter


class Terminal(io.StringIO):
    def isatty(self):
        return True


def told(monkeypatch, stream, total, pieces, seconds):
    monkeypatch.setattr(sys, "stderr", stream)
    now = [0.0]
    with meter("tokens", total, clock=lambda: now[0]) as progress:
        for _ in range(pieces):
            now[0] += seconds
            progress(50)
    return stream.getvalue()


def test_short_work_is_not_spoken_of(monkeypatch):
    for stream in (io.StringIO(), Terminal()):
        assert told(monkeypatch, stream, 200, 4, 0.4) == ""


def test_lines_give_share_rate_and_time_left(monkeypatch):
    lines = told(monkeypatch, io.StringIO(), 2000, 40, 1.0).splitlines()
    assert lines == [
        "100 of 2.0k tokens",
        "1.6k of 2.0k tokens, 50 a second, 8.0s left",
    ]
    assert told(monkeypatch, io.StringIO(), None, 2, 1.0) == "100 tokens\n"
    assert told(monkeypatch, io.StringIO(), None, 3, 0.9) == "150 tokens, 55.6 a second\n"


def test_little_work_makes_no_prophecy(monkeypatch):
    assert told(monkeypatch, io.StringIO(), 200, 1, 9.0) == "50 of 200 tokens\n"
    early = told(monkeypatch, io.StringIO(), 10_000, 9, 0.25)
    assert early == "400 of 10.0k tokens, 200 a second\n"  # less than a twentieth
    assert told(monkeypatch, io.StringIO(), 10_000, 10, 0.2001).endswith("a second, 38s left\n")
    assert told(monkeypatch, io.StringIO(), 150, 3, 0.9) == "150 of 150 tokens, 55.6 a second\n"


def test_a_terminal_has_one_line_which_goes(monkeypatch):
    text = told(monkeypatch, Terminal(), 200, 4, 1.0)
    assert "\n" not in text
    *shown, last, end = text.split("\r")[1:]
    assert shown[0] == "100 of 200 tokens"
    assert shown[1] == "150 of 200 tokens, 50 a second, 1.0s left"
    assert not last.strip() and end == "" and len(last) == len(shown[-1].rstrip())


def test_it_goes_also_when_the_work_fails(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    now = iter([0.0, 5.0])
    with pytest.raises(ValueError), meter("tokens", clock=lambda: next(now)) as progress:
        progress(10)
        raise ValueError
    assert stream.getvalue().endswith(" \r")

"""Progress on terminals, in files, on consoles that know few characters or went away."""

import contextlib
import io
import os
import re
import struct
import subprocess
import sys

import pytest

from minillm.quantities import count, counted, decimal, duration, number, size
from minillm.training.console import Console, shorten, visible
from minillm.training.progress import Progress

HOSTILE = "a\x1b[31mred\x07\r\x9b2J\u202eevil\u2028\ufeff\udc80\x00é日本🙂\n</b>\tend"
MEMORY = r"(\d+(\.\d)? [MG]B  )?"  # not every system says


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def run_plain(steps, clock, total=None, **options):
    """What a log file receives when each of `steps` takes one second."""
    stream = io.StringIO()
    with Progress(total, stream, clock=clock, **options) as progress:
        for step in steps:
            progress.update(step, loss=2.0)
            clock.now += 1.0
    return stream.getvalue().splitlines()


def steps_shown(lines):
    return [int(re.match(r"step (\d+)", line)[1]) for line in lines]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"), (0.44, "0.4s"), (9.94, "9.9s"), (9.95, "10s"), (59.4, "59s"), (59.5, "1m00s"),
        (130, "2m10s"), (3599.4, "59m59s"), (3599.6, "1h00m"), (11100, "3h05m"),
        (86399, "1d00h"), (187200, "2d04h"), (8640000, "100d00h"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0"), (7, "7"), (950, "950"), (999, "999"), (1000, "1.0k"), (31_240, "31.2k"),
        (99_949, "99.9k"), (99_950, "100k"), (999_499, "999k"), (999_500, "1.0M"),
        (1_900_000, "1.9M"), (124_439_808, "124M"), (7e9, "7.0B"), (1.4e12, "1.4T"),
        (5e15, "5,000T"), (0.5, "0.5"), (31.24, "31.2"),
    ],
)  # fmt: skip
def test_counts(n, text):
    assert count(n) == text


def test_things_that_are_counted():
    told = [counted(n, "token") for n in (0, 1, 2, 12_345)]
    assert told == ["0 tokens", "1 token", "2 tokens", "12,345 tokens"]


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(800, "800 B"), (1500, "1.5 kB"), (412e6, "412 MB"), (1.94e9, "1.9 GB"), (2e12, "2.0 TB")],
)
def test_sizes(n_bytes, text):
    assert size(n_bytes) == text


def test_numbers():
    values = [2.01349, 3e-4, 6e-5, 1.23456e7, 0.0, -1e308, 100000.0]
    words = ["2.013", "0.0003", "6e-5", "1.235e7", "0", "-1e308", "1e5"]
    assert [number(x) for x in values] == words


def test_decimals():
    values = [2.0, 1.53449, -0.5, 0.0, 0.001, 0.00098, 1234.567, 1e30, float("nan")]
    words = ["2.000", "1.534", "-0.500", "0.000", "0.001", "0.00098", "1235", "1e30", "nan"]
    assert [decimal(x) for x in values] == words
    assert decimal(2.4149, 2) == "2.41"


@pytest.mark.parametrize("function", [duration, count, size])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_quantities_that_are_none(function, value):
    with pytest.raises(ValueError, match=f"{function.__name__}: got .*, needs a finite number"):
        function(value)


def test_a_log_file_gets_the_first_line_then_one_every_ten_seconds():
    lines = run_plain(range(1, 36), Clock(), total=100)
    assert steps_shown(lines) == [1, 11, 21, 31, 35]  # the last one on closing


def test_evaluations_and_events_are_always_shown():
    clock, stream = Clock(), io.StringIO()
    with Progress(2000, stream, clock=clock) as progress:
        progress.update(399, loss=4.0)
        clock.now += 1.0
        progress.update(400, loss=2.0, val_loss=2.1021, val_bpb=2.4149, tokens_per_s=31_234.0)
        progress.update(401, loss=2.0)
        progress.update(402, event="saved")
    lines = stream.getvalue().splitlines()
    assert steps_shown(lines) == [399, 400, 402]
    # the average of 4 and 2 with decay 0.9 is (0.9*4 + 2)/1.9; 1600 steps at 1 s are left
    assert re.fullmatch(
        r"step 400/2000  loss 2\.000 \(smooth 2\.947\)  val 2\.102 \(2\.41 bits/byte\)  "
        rf"31\.2k tok/s  {MEMORY}26m40s left",
        lines[1],
    )
    assert lines[2].endswith("left  saved")


def test_bits_per_byte_of_an_older_evaluation_are_not_shown():
    stream = io.StringIO()
    with Progress(None, stream, clock=Clock()) as progress:
        progress.update(1, val_loss=3.0, val_bpb=2.0)
        progress.update(2, val_loss=2.5)
    assert "val 3.000 (2.00 bits/byte)" in stream.getvalue()
    assert re.search(r"^step 2  val 2\.500(  \d|$)", stream.getvalue(), re.MULTILINE)


@pytest.mark.parametrize(
    ("total", "budget", "left"),
    [(100, None, "1m20s"), (100, 60.0, "40s"), (25, 60.0, "5.0s"), (None, 60.0, "40s")],
)
def test_the_time_left_is_what_ends_first(total, budget, left):
    lines = run_plain(range(21), Clock(), total=total, budget_s=budget)
    assert lines[-1].endswith(f"  {left} left") and lines[-1].startswith("step 20")


def test_resuming_at_a_late_step_does_not_spoil_the_pace():
    lines = run_plain(range(9000, 9011), Clock(), total=10_000)
    assert lines[-1].endswith("  16m30s left")  # 990 steps of one second


def test_losses_without_a_number_are_shown_as_they_are():
    stream = io.StringIO()
    with Progress(None, stream, clock=Clock()) as progress:
        progress.update(1, loss=float("nan"), tokens_per_s=float("inf"), val_loss=1e30)
    assert "loss nan (smooth nan)  val 1e30" in stream.getvalue()


def test_visible_text_can_neither_steer_nor_hide():
    assert visible(HOSTILE) == (
        r"a\x1b[31mred\x07\r\x9b2J\u202eevil\u2028\ufeff\udc80\x00é日本🙂" + "\n</b>\tend"
    )
    assert (
        visible("שלום 👨\u200d👩\u200d👧 می\u200cخواهم") == "שלום 👨\u200d👩\u200d👧 می\u200cخواهم"
    )
    everything = visible("".join(map(chr, range(0x110000))))
    everything.encode("utf-8")
    assert set(everything) & set(map(chr, range(32))) == {"\n", "\t"}


def test_shortened_text_says_how_much_is_missing():
    assert shorten("abc", 3) == "abc"
    assert shorten("abcdef", 3) == "abc ... (3 more characters)"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "utf-16-le"])
def test_any_console_takes_any_text(encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict", newline="")
    with Progress(3, stream, clock=Clock()) as progress:
        progress.message(HOSTILE)
        progress.sample(HOSTILE * 100)
        progress.update(1, loss=1.0, event=HOSTILE)
    text = raw.getvalue().decode(encoding)
    expected = visible(HOSTILE).encode(encoding, "backslashreplace").decode(encoding)
    assert text.startswith(expected + "\n  | a\\x1b[31m")
    assert "more characters)" in text and len(text) < 2500
    assert set(text) & set(map(chr, [*range(32), *range(127, 160)])) == {"\n", "\t"}


def test_a_program_without_a_console_is_quiet():
    console = Console(None)
    assert (console.write("x"), console.isatty(), console.lost) == (1, False, "no stream")


def test_a_closed_stream_is_given_up():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    progress = Progress(3, stream, clock=Clock())
    progress.update(1, loss=1.0)
    assert progress.console.lost is None
    stream.close()
    progress.sample("x")
    progress.close()
    assert "closed file" in progress.console.lost


def test_a_broken_pipe_is_given_up():
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w", encoding="utf-8")
    with Progress(5, stream, every_seconds=0.0, clock=Clock()) as progress:
        progress.update(1, loss=1.0)
        assert os.read(reader, 4096).startswith(b"step 1/5")
        os.close(reader)
        progress.update(2, loss=1.0)
        progress.sample("x")
    assert progress.console.lost
    stream.close()  # would raise if the lost text were still waiting


ORPHAN = """
import sys
from minillm.training.progress import Progress
with Progress(3, every_seconds=0.0) as progress:
    sys.stdin.readline()  # the reader of stderr is gone by now
    for step in range(1, 4):
        progress.update(step, loss=1.0)
print("trained")
"""


def test_a_program_outlives_the_reader_of_its_progress():
    child = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    child.stderr.close()
    child.stdin.write("\n")
    child.stdin.close()
    assert child.stdout.read() == "trained\n"
    assert child.wait() == 0
    child.stdout.close()


class Terminal:
    """A real pseudo-terminal; `screen()` is what a person would see on it."""

    def __init__(self, columns):
        fcntl, pty = pytest.importorskip("fcntl"), pytest.importorskip("pty")
        import termios

        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.set_blocking(self.master, False)
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self.columns = columns
        self.data = b""

    @property
    def text(self):
        """All that was written so far; a read may bring only a part."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.master, 1 << 16):
                self.data += chunk
        return self.data.decode("utf-8")

    def screen(self):
        lines = []
        for line in self.text.split("\r\n"):
            cells = []
            for run in line.split("\r"):
                cells[: len(run)] = run
            assert len(cells) < self.columns, "a line that wraps cannot be drawn over"
            lines.append("".join(cells).rstrip())
        return lines

    def hang_up(self):
        os.close(self.master)
        self.master = None

    def close(self):
        self.stream.close()
        if self.master is not None:
            self.hang_up()


@pytest.fixture
def open_terminal():
    """Opens terminals of a given width, and closes them when the test is over."""
    opened = []

    def open_one(columns):
        opened.append(Terminal(columns))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


def train_on(terminal, clock, event=None):
    with Progress(10, terminal.stream, clock=clock) as progress:
        for step in range(1, 11):
            clock.now += 60.0
            progress.update(
                step, loss=3.0 - step / 10, tokens_per_s=31_200.0,
                val_loss=2.1 if step == 5 else None, val_bpb=2.41 if step == 5 else None,
                event=event if step == 6 else None,
            )  # fmt: skip
            assert terminal.text  # make room for more
            if step == 7:
                progress.sample("two\nlines \x1b[2J")


def test_a_terminal_shows_a_bar_and_whole_lines_above_it(open_terminal):
    terminal = open_terminal(160)
    train_on(terminal, Clock(), event="saved")
    screen = terminal.screen()
    assert screen[:3] == ["step 6: saved", "  | two", "  | lines \\x1b[2J"]
    assert re.fullmatch(
        r"100%\|█+\| step 10/10  loss 2\.000 \(smooth 2\.\d{3}\)  val 2\.100 \(2\.41 bits/byte\)"
        rf"  31\.2k tok/s  {MEMORY}0\.0s left",
        screen[3],
    )
    assert screen[4:] == [""]  # the cursor stands on a fresh line
    assert re.search(r" 50%\|█+\S? +\| step 5/10 .* 5m00s left", terminal.text)
    assert "\x1b" not in terminal.text


@pytest.mark.parametrize("columns", [20, 40, 80, 100])
def test_a_narrow_terminal_never_wraps(open_terminal, columns):
    terminal = open_terminal(columns)
    train_on(terminal, Clock())
    last = terminal.screen()[-2]  # asserts on every line that it fits
    assert "step 10/1" in last
    assert ("left" in last) == (columns >= 40)


def test_a_bar_is_redrawn_ten_times_a_second_at_most(open_terminal):
    terminal, clock = open_terminal(120), Clock()
    with Progress(1000, terminal.stream, clock=clock) as progress:
        for step in range(1, 1001):
            progress.update(step, loss=1.0)
            clock.now += 0.001
            assert terminal.text  # make room for more
    drawn = len(re.findall(r"step \d+/1000", terminal.text))
    assert 10 <= drawn <= 14  # one second, tqdm redraws once on closing


def test_a_terminal_that_hung_up_is_given_up(open_terminal):
    terminal, clock = open_terminal(80), Clock()
    progress = Progress(3, terminal.stream, clock=clock)
    progress.update(1, loss=1.0)
    terminal.hang_up()
    clock.now += 1.0
    progress.update(2, loss=1.0)
    progress.message("x")
    progress.close()
    assert progress.console.lost

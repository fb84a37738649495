"""Metrics and other step logs: strict JSON, torn lines, resuming, averages, summaries."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from minillm.training import metrics, steplog
from minillm.training.metrics import MetricsLog, MovingAverage, summarise
from minillm.training.steplog import StepLog


def strict_lines(path):
    """The rows as a parser sees them that knows no NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = path.read_text(encoding="ascii")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def write_steps(path, steps):
    with MetricsLog(path) as log:
        for step in steps:
            log.append(step=step, loss=step / 8, tokens=step * 64)


def test_rows_hold_what_was_measured_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.append(step=1, loss=0.1 + 0.2, lr=3e-4, val_loss=None)
        assert strict_lines(path) == [{"step": 1, "loss": 0.1 + 0.2, "lr": 3e-4}]  # before close
        log.append(step=2, tokens=np.int64(2**40), loss=np.float32(1.5), val_bpb=np.float64(2))
    rows = strict_lines(path)
    assert rows[1] == {"step": 2, "tokens": 2**40, "loss": 1.5, "val_bpb": 2.0}
    assert metrics.read(path) == rows


@pytest.mark.parametrize(
    ("value", "words"), [(math.nan, "nan"), (-math.inf, "-inf"), (np.float32("inf"), "inf")]
)
def test_a_value_that_is_not_finite_is_recorded_in_words(tmp_path, value, words):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.append(step=1, loss=value, lr=1e-3)
        log.append(step=2, grad_norm=value, skipped="gradient of wte")
    assert strict_lines(path) == [
        {"step": 1, "lr": 1e-3, "skipped": f"loss is {words}"},
        {"step": 2, "skipped": f"gradient of wte; grad_norm is {words}"},
    ]


def test_wrong_names_and_kinds_are_refused_and_write_nothing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        with pytest.raises(TypeError, match="no key 'learning_rate', the keys are step, tokens"):
            log.append(step=1, learning_rate=1e-3)
        with pytest.raises(TypeError, match="loss is '2', needs a number"):
            log.append(step=1, loss="2")
        with pytest.raises(TypeError, match="loss is True"):
            log.append(step=1, loss=True)
        with pytest.raises(TypeError):
            log.append(step=1.5, loss=2.0)
        log.append(step=3, loss=2.0)
        with pytest.raises(ValueError, match="step 2 after step 3"):
            log.append(step=2, loss=2.0)
    assert [row["step"] for row in strict_lines(path)] == [3]


def test_a_new_log_does_not_touch_an_earlier_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [1, 2])
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"metrics\.jsonl: holds rows of an earlier run"):
        MetricsLog(path)
    assert path.read_bytes() == before


def test_resuming_drops_the_rows_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(1, 11))
    kept = b"".join(path.read_bytes().splitlines(keepends=True)[:6])
    with MetricsLog(path, resume_step=6) as log:
        assert log.notice == "metrics.jsonl: dropped 4 rows after step 6"
        assert path.read_bytes() == kept
        log.append(step=7, loss=0.5)
    assert [row["step"] for row in metrics.read(path)] == [1, 2, 3, 4, 5, 6, 7]
    with MetricsLog(path, resume_step=7) as log:
        assert log.notice is None
        with pytest.raises(ValueError, match="step 6 after step 7"):
            log.append(step=6)
    with MetricsLog(path, resume_step=0) as log:
        assert log.notice == "metrics.jsonl: dropped 7 rows after step 0"
    assert path.read_bytes() == b""
    assert list(tmp_path.iterdir()) == [path]


def test_resuming_without_a_file_says_so(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl", resume_step=5) as log:
        assert log.notice == "metrics.jsonl: missing, begins again after step 5"
        log.append(step=6, loss=1.0)
    assert [row["step"] for row in metrics.read(tmp_path / "metrics.jsonl")] == [6]
    with MetricsLog(tmp_path / "other.jsonl", resume_step=0) as log:
        assert log.notice is None


def test_a_kill_at_any_byte_costs_one_row_at_most(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_steps(path, [1, 2, 3])
    whole = path.read_bytes()
    last_line = whole.rindex(b"\n", 0, -1) + 1
    for length in range(last_line, len(whole) + 1):
        path.write_bytes(whole[:length])
        complete = length >= len(whole) - 1  # only the line end may be missing
        torn = last_line < length < len(whole) - 1
        assert [row["step"] for row in metrics.read(path)] == ([1, 2, 3] if complete else [1, 2])
        with MetricsLog(path, resume_step=3) as log:
            assert log.notice == ("metrics.jsonl: dropped a torn last line" if torn else None)
            log.append(step=4, loss=0.5)
        assert [row["step"] for row in strict_lines(path)] == [1, 2] + [3] * complete + [4]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (b'{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n', 2),
        (b'{"step": 1}\n{"step": 2, "loss": 1.', None),  # torn, not damaged
        (b'{"step": 1}\n{"step": 2, "lo\n', 2),  # its line end stands: not torn
        (b'{"step": 1}\n\n{"step": 2}\n', 2),
        (b'{"step": 1}\n\x00\x00\x00\x00', None),
        (b'{"step": 1}\n\xff\n', 2),
        (b'{"step": 2}\n{"step": 1}\n', 2),
        (b'{"step": 1}\n[2]\n', 2),
        (b'{"loss": 1}\n', 1),
        (b'{"step": 1.0}\n', 1),
        (b'{"step": true}\n', 1),
        (b'{"step": -1}\n', 1),
        (b'{"step": 1, "loss": NaN}\n', 1),
        (b'{"step": 1, "loss": 1e999}\n', 1),
        (b'{"step": 1, "loss": "2"}\n', 1),
        (b'{"step": 1, "loss": true}\n', 1),
        (b'{"step": 1}\n{"step": 2, "tokens": 1' + b"0" * 400 + b"}\n", 2),
        (b'{"step": 1' + b"0" * 30 + b"}\n", 1),
        (b"", None),
    ],
)
def test_only_a_torn_last_line_is_forgiven(tmp_path, damage, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(damage)
    if line is None:
        assert [row["step"] for row in metrics.read(path)] == [1] * bool(damage)
        return
    with pytest.raises(ValueError, match=rf"metrics\.jsonl line {line}: .*needs"):
        metrics.read(path)


def test_a_damaged_log_is_not_resumed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\nbroken\n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        MetricsLog(path, resume_step=3)
    assert path.read_bytes() == b'{"step": 1}\nbroken\n{"step": 3}\n'


FULL_DISK = """
import resource, sys
from minillm.training.metrics import MetricsLog, read
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with MetricsLog(sys.argv[1]) as log:
    log.append(step=1, loss=1.0)
    try:
        log.append(step=2, skipped="x" * 200)
    except OSError:
        log.append(step=2, loss=0.5)
        print([row["step"] for row in read(sys.argv[1])])
"""


def test_a_full_disk_leaves_whole_lines(tmp_path):
    pytest.importorskip("resource")
    path = tmp_path / "metrics.jsonl"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "[1, 2]\n"
    assert [row["step"] for row in strict_lines(path)] == [1, 2]


def test_samples_survive_any_text(tmp_path):
    path = tmp_path / "samples.jsonl"
    text = "a\x1b[2J\r\n\u2028\u202e</script>\udc80 é 日本\x00"
    with StepLog(path) as log:
        log.append(step=5, prompt="", text=text)
        with pytest.raises(ValueError, match="step 6: Out of range"):
            log.append(step=6, score=math.nan)
    assert path.read_bytes().count(b"\n") == 1
    assert steplog.read(path) == [{"step": 5, "prompt": "", "text": text}]


def test_the_moving_average_is_the_normalised_weighted_sum():
    values, decay = [4.0, 3.0, 3.5, 1.0], 0.9
    average = MovingAverage(decay)
    assert math.isnan(average.value)
    for n in range(1, len(values) + 1):
        weights = [decay ** (n - 1 - i) for i in range(n)]
        expected = sum(w * x for w, x in zip(weights, values)) / sum(weights)
        assert average.update(values[n - 1]) == pytest.approx(expected, rel=1e-12)
    before = average.value
    assert average.update(math.nan) == before
    with pytest.raises(ValueError, match="decay 1"):
        MovingAverage(1.0)


def test_the_summary_of_a_resumed_run():
    rows = [
        {"step": 1, "loss": 4.0, "tokens": 10, "elapsed_s": 2.0, "tokens_per_s": 5.0},
        {"step": 2, "val_loss": 3.0, "elapsed_s": 5.0, "rss_mb": 80.0},
        {"step": 3, "val_loss": 3.0, "elapsed_s": 1.0, "rss_mb": 70.0, "tokens_per_s": 50.0},
        {"step": 4, "val_loss": 3.5, "tokens": 40, "elapsed_s": 1.5, "tokens_per_s": 6.0},
        {"step": 5, "skipped": "loss is nan"},
    ]
    summary = summarise(rows)
    assert (summary.steps, summary.tokens, summary.loss) == (5, 40, 4.0)
    assert summary.elapsed_s == 5.0 + 1.5
    assert summary.best is rows[1]
    assert summary.final is rows[3]
    assert (summary.tokens_per_s, summary.rss_mb) == (6.0, 80.0)
    assert summary.skipped == [rows[4]]


def test_the_summary_of_nothing():
    assert summarise([]) == metrics.Summary()
    bare = summarise([{"step": 3}])
    assert (bare.steps, bare.loss, bare.best, bare.elapsed_s) == (3, None, None, None)

"""The benchmark of the GPU, as far as it can be seen to work without one."""

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench is not installed
from bench import gpu, gpu_run
from bench.gpu_place import Row

ROOT = gpu.ROOT


def run(folder, *arguments):
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), *arguments]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)


def test_without_a_gpu_it_is_one_line(tmp_path):
    done = run(tmp_path)
    if done.returncode != 2:
        pytest.skip("this machine has a GPU")
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu: device: ") and "--rehearse" in line
    assert not done.stdout and not list(tmp_path.iterdir())


def test_a_rehearsal_measures_and_writes(tmp_path):
    done = run(tmp_path, "--rehearse", "--only", "bound", "muon", "curve", "train")
    assert "Traceback" not in done.stdout + done.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    rows = {row["what"]: row for row in content["rows"]}
    assert rows["softmax both"]["ours"] > 0 and rows["adamw forward"]["ours"] > 0
    assert rows["adamw8bit forward"]["ours"] > 0 and rows["muon"]["ours"] > 0
    assert rows["norm forward"]["ours"] > 0 and "norm both" not in rows
    assert rows["loss curve"]["passed"] and rows["same bits twice"]["passed"]
    assert rows["same bits by graphs"]["passed"] and rows["step without graphs"]["ours"] > 0
    assert rows["graphs of a step"]["ours"] == bool(os.environ.get("MINILLM_CUDA_ON_HOST"))
    assert "error" not in {key for row in content["rows"] for key in row}
    assert done.returncode == int(any(row["passed"] is False for row in content["rows"]))
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("\n| ") == 2 + len(content["rows"])


@pytest.mark.parametrize(
    ("got", "needed", "at_most", "passed"),
    [
        (1.0, 1.0, False, True),
        (0.9, 1.0, False, False),
        (1.3, 1.3, True, True),
        (1.4, 1.3, True, False),
        (None, 1.0, False, False),
        (2.0, None, False, None),
    ],
)
def test_what_is_reached(got, needed, at_most, passed):
    row = Row("step", "ms", 1, {}, "x", got, needed, at_most)
    assert row.passed is passed


def test_the_table():
    rows = [
        Row("step", "ms", 12.34567, {"torch": 13.0}, "x torch", 1.0530, 1.0).content(),
        {"part": "suite", "what": "suite", "error": "3 failed", "passed": False},
    ]
    assert gpu_run.table(rows).splitlines()[2:] == [
        "| step | 12.35 ms | torch 13 | 1.053 x torch | ≥ 1 | yes |",
        "| suite | 3 failed |  |  |  | NO |",
    ]


def test_a_part_that_fails_or_takes_too_long_costs_itself(tmp_path):
    saved = []
    attempt = gpu_run.Run(tmp_path, 600, lambda rows: saved.append(len(rows)))
    measured = f"row {json.dumps(Row('step', 'ms', 1.0).content())}"
    failing = f"print({measured!r}); 1 / 0"
    assert not attempt.measure("train", [sys.executable, "-c", failing], 60)
    assert attempt.rows[0]["ours"] == 1.0  # what it had found stays
    assert attempt.rows[1]["error"] == "ZeroDivisionError: division by zero"
    endless = "import sys; print('on', flush=True); sys.stdin.read(); [0 for _ in iter(int, 1)]"
    assert not attempt.measure("train", [sys.executable, "-c", endless], 0.3)
    assert attempt.rows[-1]["error"].startswith("stopped after ")
    attempt.end = gpu_run.time.monotonic()
    assert not attempt.measure("train", [sys.executable, "-c", ""], 60)
    assert attempt.rows[-1]["error"] == "no time was left"
    assert saved == [2, 3, 4]


def test_a_suite_of_which_nothing_ran_has_not_passed(tmp_path):
    attempt = gpu_run.Run(tmp_path, 600, lambda rows: None)
    for printed, passed in (("3 passed, 1 skipped", True), ("4 skipped", False)):
        command = [sys.executable, "-c", f"print({printed!r})"]
        assert attempt.check("suite", "suite a", command, 60, "passed") is passed
        assert attempt.rows[-1]["passed"] is passed
    assert attempt.rows[-1]["error"] == "nothing was tested: 4 skipped"


def test_parts_that_are_not_run_again_stay_in_the_file(tmp_path):
    path, facts = tmp_path / "gpu.json", {"card": "A"}
    rows = [{"part": "train", "what": "step"}, {"part": "build", "what": "build"}]
    path.write_text(json.dumps({"machine": facts, "rows": rows}))
    assert gpu.earlier(path, facts, ["decode"]) == rows[:1]
    assert gpu.earlier(path, facts, ["train"]) == gpu.earlier(path, facts, None) == []
    for wanted in (["decode"], None):  # nor does a whole run, or a rehearsal, replace it
        with pytest.raises(ValueError, match=r"gpu.json is of another machine or of other"):
            gpu.earlier(path, {"card": "B"}, wanted)
    for content in ("no JSON", "{}", "[]"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"gpu.json holds no figures of a GPU; name another"):
            gpu.earlier(path, facts, None)


def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path):
    done = run(tmp_path, "--rehearse", "--table", "nowhere/gpu.md")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "gpu: nowhere/gpu.md cannot be written: No such file or directory\n"


def test_the_unit_of_losses_is_what_rounding_the_weights_does(tmp_path):
    """Not what another optimiser does."""
    told = (
        "from bench.gpu_parts import TINY, losses\n"
        "exact, near, again = (losses(TINY, 'cpu', 6, seed).tolist() for seed in (0, 1, 0))\n"
        "assert exact == again and max(abs(a - b) for a, b in zip(exact, near)) < 1e-5\n"
    )
    subprocess.run([sys.executable, "-c", told], check=True, cwd=ROOT)


STOPPED = """
import sys
from bench import gpu

def run_parts(run, package, options):
    run.check("suite", "a", [sys.executable, "-c", ""], 60)
    waiting = "import os, signal; print(os.getpid()); signal.pause()"
    run.check("suite", "b", [sys.executable, "-c", waiting], 60)

gpu.run_parts = run_parts
sys.exit(gpu.main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_the_benchmark_stops_its_part_and_keeps_what_was_found(tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, "--rehearse"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = next(int(line) for line in process.stdout if line.strip().isdigit())
    process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == 130
    assert told == "gpu: stopped; what was found is in gpu.json, gpu.md\n"
    with pytest.raises(ProcessLookupError):
        os.kill(part, 0)
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [(row["what"], row["passed"]) for row in rows] == [("a", True)]


def test_without_the_extension_nothing_of_it_is_said_to_work(monkeypatch, tmp_path):
    attempt = gpu_run.Run(tmp_path, 600, lambda rows: None)
    monkeypatch.setattr(gpu, "build", lambda run, package: False)
    gpu.run_parts(attempt, tmp_path, Namespace(rehearse=False, only=["suite", "memcheck"]))
    assert {(row["part"], row["passed"]) for row in attempt.rows} == {
        ("suite", False),
        ("memcheck", False),
    }

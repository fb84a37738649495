"""`minillm runs`: what folders say of their runs, and several runs side by side."""

import json
import re
import shutil

import pytest

from minillm.formats.lock import Lock
from minillm.training import metrics, runs
from minillm.training.objective import Best
from small_runs import flags, minillm, story, tree, written
from test_report import Page, write_run


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """Two runs that were trained, and three folders that are none."""
    top = tmp_path_factory.mktemp("runs")
    data = written(top.parent / "texts" / "story.txt", story(40))
    for name, options in (("first", {}), ("second", {"lr": 0.02, "stop_after": 5})):
        assert minillm("train", data, "--out", top / name, *flags(threads=1, **options)) == 0
    write_run(top / "deep" / "third", [{"step": 1, "loss": 2.0}], {"steps": 9}, {})
    (top / "empty" / "inside").mkdir(parents=True)
    (top / ".hidden").mkdir()
    (top / "broken" / "training").mkdir(parents=True)
    (top / "broken" / "training" / "settings.json").write_text("{", encoding="utf-8")
    return top


def told(capsys, *words):
    assert minillm("runs", *words) == 0
    return capsys.readouterr()


def listed(capsys, *words):
    return json.loads(told(capsys, *words, "--json").out)


def lines_of(text):
    return [line.split()[0] for line in text.splitlines()[1:]]


class TestList:
    def test_what_a_run_says_of_itself(self, top, capsys):
        capsys.readouterr()
        found = listed(capsys, top)
        by_name = {one["name"]: one for one in found["runs"]}
        assert set(by_name) == {"first", "second", "deep/third"}
        first = by_name["first"]
        rows = metrics.read(top / "first" / "metrics.jsonl")
        assert first["state"] == "done" and first["steps"] == first["goal"] == 12
        assert first["best"] == min(row["val_loss"] for row in rows if "val_loss" in row)
        assert first["metric"] == "val_loss" and first["command"] == "train"
        assert first["data"] == [str(top.parent / "texts" / "story.txt")]
        assert first["parameters"] > 1000 and first["model"] == "GPT-2"
        assert by_name["second"]["state"] == "stopped" and by_name["second"]["steps"] == 5
        assert by_name["deep/third"]["state"] == "crashed"
        assert found["foreign"] == ["empty"]
        [broken] = found["damaged"]
        assert broken["name"] == "broken" and "settings.json" in broken["reason"]

    def test_the_table_and_what_is_no_run(self, top, capsys):
        done = told(capsys, top, "--sort", "name")
        assert lines_of(done.out) == ["deep/third", "first", "second"]
        line = done.out.splitlines()[2]
        assert re.search(r"done +train +GPT-2 [\d.]+k? +story\.txt +12/12 +validation loss", line)
        assert "note: broken is damaged: " in done.err and "note: no runs in empty" in done.err

    def test_order(self, top, capsys):
        assert lines_of(told(capsys, top, "--sort", "steps").out) == [
            "first",
            "second",
            "deep/third",
        ]
        by_best = listed(capsys, top, "--sort", "best")["runs"]
        assert by_best[0]["best"] <= by_best[1]["best"] and by_best[2]["best"] is None

    def test_highest_is_best_where_the_metric_says_so(self, top, tmp_path, capsys):
        for name, value in (("low", 0.4), ("high", 0.9)):
            rows = [{"step": 1, "val_loss": 1.0, "val_f1": value}]
            write_run(tmp_path / name, rows, {}, {"decides": ["val_f1", True]})
        found = listed(capsys, tmp_path, "--sort", "best")["runs"]
        assert [one["best"] for one in found] == [0.9, 0.4]
        assert runs.read(tmp_path / "low").decides == Best("val_f1", True)

    @pytest.mark.parametrize("decides", [[1], ["val_f1", True, 2], ["val_f1", "no"], []])
    def test_facts_that_are_damaged(self, tmp_path, decides, capsys):
        write_run(tmp_path / "run", [{"step": 1, "val_f1": 0.5}], {}, {"decides": decides})
        [one] = listed(capsys, tmp_path)["damaged"]
        assert one["reason"].startswith(f"facts.json: decides is {decides!r}, a metric and")

    def test_choice(self, top, capsys):
        done = told(capsys, top, "--state", "done", "--state", "crashed", "--sort", "name")
        assert lines_of(done.out) == ["deep/third", "first"]
        assert "1 run of another kind left out" in done.err
        assert lines_of(told(capsys, top, "--match", "STORY.txt", "--sort", "name").out) == [
            "first", "second"
        ]  # fmt: skip

    def test_a_single_run_and_none(self, top, tmp_path, capsys):
        assert lines_of(told(capsys, top / "first").out) == ["first"]
        assert "note: no run in" in told(capsys, tmp_path).err
        assert minillm("runs", tmp_path / "gone") == 2
        assert "no such file or directory" in capsys.readouterr().err

    def test_looking_changes_nothing(self, top, capsys):
        before = tree(top)
        told(capsys, top)
        assert tree(top) == before


class TestState:
    def test_running_crashed_and_taken_up_again(self, top, tmp_path, monkeypatch):
        shutil.copytree(top / "second", tmp_path / "run")
        folder = tmp_path / "run"
        with Lock(folder / "training", "held"):
            assert runs.state_of(folder) == "running"
        assert runs.state_of(folder) == "stopped"
        monkeypatch.setattr("minillm.training.run.Run._finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            minillm("train", "--resume", folder, "--stop-after", 6)
        (folder / "report.html").unlink()
        assert runs.state_of(folder) == "crashed"
        monkeypatch.undo()
        assert minillm("train", "--resume", folder) == 0
        assert runs.state_of(folder) == "done"

    def test_runs_from_before_outcomes_were_written(self, top, tmp_path):
        for name, state in (("first", "done"), ("second", "stopped")):
            shutil.copytree(top / name, tmp_path / name)
            (tmp_path / name / "training" / "outcome.json").unlink()
            assert runs.state_of(tmp_path / name) == state

    def test_a_run_whose_loss_is_not_finite(self, tmp_path):
        data = written(tmp_path / "s.txt", story(40))
        words = flags(lr=1e30, max_skips=1, clip=0, optimizer="adamw")
        assert minillm("train", data, "--out", tmp_path / "run", *words) == 1
        assert runs.state_of(tmp_path / "run") == "diverged"

    def test_an_outcome_that_is_none(self, top, tmp_path, capsys):
        shutil.copytree(top / "first", tmp_path / "run")
        path = tmp_path / "run" / "training" / "outcome.json"
        path.write_text('{"outcome": "fine"}', encoding="utf-8")
        [one] = listed(capsys, tmp_path)["damaged"]
        assert "outcome 'fine', one of running, done" in one["reason"]


class TestCompare:
    def test_settings_that_differ_and_what_came_out(self, top, tmp_path, capsys):
        page = tmp_path / "both.html"
        done = told(capsys, top, "--compare", "first", top / "second", "--page", page)
        lines = [line.split() for line in done.out.splitlines()]
        assert ["state", "done", "stopped"] in lines and ["steps", "12", "5"] in lines
        place = lines.index(["settings", "that", "differ:"])
        assert {line[0] for line in lines[place + 1 :]} == {"lr"}
        text = page.read_text(encoding="utf-8")
        parsed = Page(text)
        charts = parsed.all("figure", "chart")
        curves = [tag for tag in parsed.all("path") if "data-label" in tag]
        assert len(charts) == 3  # training loss, validation loss, bits per byte
        labels = [tag["data-label"] for tag in curves]
        assert labels[:2] == ["first", str(top / "second")]
        assert {tag["class"].split()[1] for tag in curves} == {"run0", "run1"}
        [low, high] = next(tag["data-x"] for tag in parsed.all("svg") if "data-x" in tag).split()
        assert (float(low), float(high)) == (0, 12)  # one axis for both
        assert not re.search(r"https?:|url\(|@import", text)

    def test_as_json(self, top, capsys):
        found = listed(capsys, top, "--compare", "first", "second")
        assert [one["name"] for one in found["runs"]] == ["first", "second"]
        assert found["settings_that_differ"].keys() == {"lr"}
        assert found["settings_that_differ"]["lr"][1] == 0.02

    @pytest.mark.parametrize("words, line", [
        (["--compare", "first"], "runs: 1 run to compare, 2 are needed"),
        (["--compare", "first", "empty"], "runs: empty is no run, nor is one of that name in "),
        (["--compare", "first", "second", "--state", "done"], "runs: --state and --compare: each"),
        (["--page", "x.html"], "runs: --page goes with --compare only"),
        (["--compare", "first", "second", "--page", "x.txt"], "page: x.txt, a name that ends in"),
        (["--compare", "first", "broken"], "settings.json"),
    ])  # fmt: skip
    def test_what_cannot_be(self, top, words, line, capsys):
        assert minillm("runs", top, *words) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and line in said[0]

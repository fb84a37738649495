"""`--track`: what each tool's own reader finds, and trackers that fail, hang or are missing."""

import json
import threading
from typing import ClassVar

import numpy as np
import pytest

from minillm.training import metrics
from minillm.training.trackers import tracking
from small_runs import flags, minillm, story, tree, written

STEPS = 12


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(*words) in a folder of its own; the run is `run`."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "s.txt", story(40))

    def start(*words):
        begin = ["--resume", "run"] if "--resume" in words else ["s.txt", "--out", "run", *flags()]
        rest = [word for word in words if word != "--resume"]
        return minillm("train", *begin, *rest)

    return start


def column(folder, key):
    """(step, value) of a key of metrics.jsonl."""
    rows = metrics.read(folder / "run" / "metrics.jsonl")
    return [(row["step"], row[key]) for row in rows if key in row]


class TestClients:
    def test_tensorboard(self, train, tmp_path):
        pytest.importorskip("tensorboardX")
        reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        assert train("--track", "tensorboard", "--stop-after", 6) == 0
        assert train("--resume") == 0
        found = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
        for key in ("loss", "val_loss", "lr"):
            events = [(event.step, event.value) for event in found.Scalars(key)]
            right = [(step, float(np.float32(value))) for step, value in column(tmp_path, key)]
            assert events == right
        assert [step for step, _ in column(tmp_path, "loss")] == list(range(1, STEPS + 1))
        [text] = found.Tensors("settings/text_summary")
        assert "lr: " in text.tensor_proto.string_val[0].decode()

    def test_tensorboard_forgets_what_a_crash_wrote_after_the_last_save(self, train, tmp_path):
        pytest.importorskip("tensorboardX")
        reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        assert train("--track", "tensorboard", "--stop-after", 6) == 0
        late = tracking.Tracking(["tensorboard"], tmp_path / "run", 6)
        late.log(9, {"loss": 99.0})
        assert late.close("stopped") == []
        assert train("--resume") == 0
        found = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
        assert 99.0 not in [event.value for event in found.Scalars("loss")]

    def test_mlflow(self, train, tmp_path):
        pytest.importorskip("mlflow")
        from mlflow.tracking import MlflowClient

        assert train("--track", "mlflow", "--stop-after", 6) == 0
        kept = json.loads((tmp_path / "run/training/tracking.json").read_text())["mlflow"]
        client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
        assert client.get_run(kept["run"]).info.status == "KILLED"
        assert train("--resume") == 0
        run = client.get_run(kept["run"])
        assert run.info.status == "FINISHED" and run.info.run_name == "run"
        assert run.data.params["steps"] == str(STEPS)
        for key in ("loss", "val_loss"):
            history = client.get_metric_history(kept["run"], key)
            found = sorted((one.step, one.value) for one in history)
            assert found == column(tmp_path, key)
        [experiment] = [e for e in client.search_experiments() if e.name == "minillm"]
        assert len(client.search_runs([experiment.experiment_id])) == 1

    def test_weights_and_biases_offline(self, train, tmp_path):
        pytest.importorskip("wandb")
        assert train("--track", "wandb", "--stop-after", 6) == 0
        assert train("--resume") == 0
        files = sorted((tmp_path / "run" / "wandb").rglob("*.wandb"))
        assert len(files) == 2 and len({path.name for path in files}) == 1  # one id
        rows, configs = {}, []
        for path in files:
            for record in wandb_records(path):
                match record.WhichOneof("record_type"):
                    case "history":
                        items = record.history.item
                        values = {(i.key or i.nested_key[0]): i.value_json for i in items}
                        rows[int(values["_step"])] = float(values["loss"])
                    case "run":
                        assert record.run.display_name == "run"
                        configs += [item.key for item in record.run.config.update]
        assert sorted(rows.items()) == column(tmp_path, "loss")
        assert "lr" in configs


def wandb_records(path):
    """The records of an offline run: of its log format (LevelDB's, in blocks of 32 KiB)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if place % 32768 > 32768 - 7:
            place += -place % 32768
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


class Listener:
    """A client that keeps what it is told."""

    told: ClassVar[list] = []

    def begin(self, about, kept):
        self.told.append(("begin", about.step, dict(kept)))
        return {"id": kept.get("id", "x1")}

    def log(self, step, values):
        self.told.append((step, values))

    def end(self, outcome):
        self.told.append(("end", outcome))


@pytest.fixture
def listener(monkeypatch):
    """Listener in the place of TensorBoard, whose package is always there."""
    monkeypatch.setattr(Listener, "told", [])
    monkeypatch.setitem(tracking.CLIENTS, "tensorboard", Listener)
    monkeypatch.setitem(tracking.EXTRAS, "tensorboard", "numpy")
    return Listener


class TestTracking:
    def test_rows_in_their_order_and_the_same_run_taken_up_again(self, train, tmp_path, listener):
        assert train("--track", "tensorboard", "--stop-after", 6) == 0
        assert train("--resume") == 0
        begun = [one for one in listener.told if one[0] == "begin"]
        assert begun == [("begin", 0, {}), ("begin", 6, {"id": "x1"})]
        assert [one for one in listener.told if one[0] == "end"] == [
            ("end", "stopped"), ("end", "done")
        ]  # fmt: skip
        rows = [one for one in listener.told if isinstance(one[0], int)]
        assert [(step, row["loss"]) for step, row in rows] == column(tmp_path, "loss")

    def test_one_that_fails_is_said_once_and_ends_nothing(
        self, train, tmp_path, listener, capsys, monkeypatch
    ):
        def failing(self, step, values):
            raise OSError("no room\nleft")

        monkeypatch.setattr(listener, "log", failing)
        assert train("--track", "tensorboard") == 0
        said = capsys.readouterr().err
        assert said.count("track: ") == 1
        assert "track: tensorboard failed (no room left), the run goes on without it" in said
        assert len(column(tmp_path, "loss")) == STEPS

    def test_one_that_hangs_is_left_behind(self, train, listener, capsys, monkeypatch):
        release = threading.Event()
        monkeypatch.setattr(listener, "begin", lambda self, about, kept: release.wait())
        monkeypatch.setattr(tracking, "PATIENCE", 0.01)
        monkeypatch.setattr(tracking, "WAITING", 3)
        assert train("--track", "tensorboard") == 0
        release.set()
        said = capsys.readouterr().err
        assert "track: not done after 0 s, left behind" in said
        assert f"track: too slow for the run, {STEPS - 3} rows were left out" in said

    def test_it_changes_nothing_of_the_run(self, train, tmp_path, listener):
        assert train("--track", "tensorboard") == 0
        told = tree(tmp_path / "run")
        (tmp_path / "run").rename(tmp_path / "first")
        assert train() == 0
        plain = tree(tmp_path / "run")
        assert set(told) - set(plain) == {"training/tracking.json"}
        for name in ("model.safetensors", "training/state-00000012.safetensors"):
            assert told[name] == plain[name]

    def test_numbers_that_are_none_are_left_out(self, tmp_path, listener):
        (tmp_path / "run" / "training").mkdir(parents=True)
        one = tracking.Tracking(["tensorboard"], tmp_path / "run", 0)
        one.log(1, {"loss": float("nan"), "lr": 0.5, "rss_mb": None})
        assert one.close("done") == []
        assert listener.told[1] == (1, {"lr": 0.5})

    def test_a_missing_package_is_named_before_anything_begins(
        self, train, tmp_path, monkeypatch, capsys
    ):
        monkeypatch.setitem(tracking.EXTRAS, "wandb", "no_such_package")
        assert train("--track", "wandb") == 2
        assert capsys.readouterr().err == (
            "minillm: track: wandb needs the package no_such_package, which is not installed; pip "
            "install 'minillm[wandb]'\n"
        )
        assert not (tmp_path / "run").exists()
        assert train("--track", "comet") == 2
        assert "track: 'comet', one of tensorboard, wandb, mlflow is needed" in (
            capsys.readouterr().err
        )

    def test_without_trackers_there_is_no_thread(self, train, tmp_path):
        before = threading.active_count()
        assert train() == 0
        assert threading.active_count() == before
        assert not (tmp_path / "run" / "training" / "tracking.json").exists()

"""The benchmark of decoding: its processes, what it counts, and that it refuses what is wrong."""

import json
import os
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench is not installed

from bench import decode
from bench.decoded_models import resolve
from bench.line import Process

from minillm import kernels
from minillm.generation import Sampler
from minillm.generation.decoding import generate_ids
from minillm.models.folder import load_model

ROOT = Path(__file__).resolve().parents[1]


FAR_END = """
import sys
import numpy
from bench.line import serve

class Counting:
    '''After n ids the id n mod 7 is likeliest, by a logit that `height` gives.'''
    def __init__(self, options):
        if options["height"] is None:
            raise ValueError("no height")
        self.height, self.read_ids = options["height"], 0
        print("a library speaks")
    def read(self, ids, anew):
        self.read_ids = len(ids) + (0 if anew else self.read_ids)
        logits = numpy.zeros(7)
        logits[self.read_ids % 7] = self.height
        logits[6] = 0.5
        return logits

serve(Counting)
"""


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a process at the far end of a line, that counts."""
    (tmp_path / "far_end.py").write_text(FAR_END, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    def begin(height, name="counting"):
        options = {"height": height}
        return Process(name, sys.executable, "far_end", options, {"PYTHONPATH": path})

    return begin


class TestLine:
    def test_tokens_follow_each_other_and_a_text_begins_anew(self, start):
        with closing(start(1)) as process:
            first = process([5, 5, 5], 3)
            assert first["ids"] == [3, 4, 5, 6]
            again = process([5], logits=True)
        assert again["ids"] == [1] and again["logits"] == [0, 1, 0, 0, 0, 0, 0.5]
        assert 0 < first["more_s"] < first["since_start_s"] < again["since_start_s"]
        assert again["more_s"] < again["read_s"]

    def test_the_last_words_of_a_process_are_told(self, start):
        with (
            closing(start(None)) as process,
            pytest.raises(RuntimeError, match="counting: ValueError: no height"),
        ):
            process([1])

    @pytest.mark.skipif(sys.platform != "linux", reason="memory is read as on Linux")
    def test_memory_is_that_of_the_process(self, start):
        with closing(start(1)) as process:
            process([1])
            held = process.resident_mb()
        assert 5 < held["rss_mb"] <= held["peak_rss_mb"] < 500


class TestAgreement:
    def test_other_logits_are_found(self, start):
        def wrong(other, allowed):
            starts = {"ours": partial(start, 1.0), "theirs": partial(start, other)}
            return decode.disagreements(starts, [1, 2], {"ours": 0.0, "theirs": allowed})

        assert wrong(1.0, 0.0) == []
        off = 0.1 / np.sqrt(7) / np.std([1, 0.5, 0, 0, 0, 0, 0])
        assert wrong(1.1, off * 1.01) == []
        (line,) = wrong(1.1, off * 0.99)
        assert line.startswith(f"theirs: logits off by {off:.3g} of their spread, ")

    def test_a_model_that_is_wrong_is_not_timed(self, start, capsys):
        model = decode.Decoded("m", Path("m"), 0, 7, False, 0.0, 0.0)
        options = argparse_of(against="torch")
        decode_contenders = {"cpu": partial(start, 1.0), "torch": partial(start, 2.0)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decode, "contenders", lambda *_: decode_contenders)
            found, lines = decode.measure(model, options, None)
        assert lines == [] and len(found) == 1 and found[0].startswith("m torch: logits off by ")


def argparse_of(**given):
    from argparse import Namespace

    return Namespace(**{"precision": "f32", "rounds": 1, "threads": 1, "provider": ["cpu"]} | given)


FAST = {"tokens_per_s": [100.0, 110.0, 90.0], "prompt_per_s": [400.0, 400.0, 500.0],
            "first_s": [0.5, 0.4, 0.6], "rss_mb": [50.0, 60.0, 55.0]}  # fmt: skip
SLOW = {"tokens_per_s": [50.0, 100.0, 100.0], "prompt_per_s": [200.0, 100.0, 500.0],
            "first_s": [1.0, 1.0, 0.3], "rss_mb": [50.0, 50.0, 50.0]}  # fmt: skip


class TestFigures:
    def test_medians_spreads_and_ratios_within_rounds(self):
        row = decode.row_of("cpu", FAST, SLOW)
        assert (row["tokens_per_s"], row["prompt_per_s"], row["first_s"]) == (100, 400, 0.5)
        assert (row["spread"], row["spread_prompt"]) == (0.2, 0.25)
        assert row["spread_first"] == pytest.approx(0.4)
        assert row["rss_mb"] == 55
        assert row["ratio_decode"] == 1.1  # of 2, 1.1 and 0.9
        assert row["ratio_prompt"] == 2  # of 2, 4 and 1
        assert row["ratio_first"] == 2  # of 2, 2.5 and 0.5
        assert not {key for key in decode.row_of("cpu", FAST, None) if "ratio" in key}

    def test_rounds_alternate(self, start):
        order = []

        def begin(name):
            order.append(name)
            return start(1.0)

        starts = {"a": partial(begin, "a"), "b": partial(begin, "b")}
        found = decode.alternate(starts, 2, [1] * 4, [1] * 8)
        assert order == ["a", "b", "a", "b"]
        assert [len(values) for values in found["a"].values()] == [2] * len(found["a"])
        assert {"tokens_per_s", "prompt_per_s", "first_s"} <= found["b"].keys()


class TestModels:
    def test_what_a_token_reads_is_every_matrix_once(self, tmp_path):
        model = resolve("XS", tmp_path)
        weights = 12 * 4 * 128**2 + 65 * 128  # the tied head is the embedding
        assert (model.read, model.flop) == (4 * weights, 2 * weights)
        assert (model.vocab_size, model.vocabulary) == (65, False)
        assert load_model(model.path).config.context == 1024

    def test_a_type_is_made_once_and_read_as_it_is_held(self, tmp_path):
        model = resolve("XS:q8_0", tmp_path)
        weights = 12 * 4 * 128**2 + 65 * 128
        assert model.read == weights * 34 / 32
        assert model.bytes == model.path.stat().st_size > model.read
        made = model.path.stat().st_mtime_ns
        assert resolve("XS:q8_0", tmp_path) == model
        assert model.path.stat().st_mtime_ns == made
        assert resolve(str(model.path), tmp_path)._replace(name="") == model._replace(name="")

    def test_what_is_not_there_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nothing is not a folder"):
            resolve("nothing", tmp_path)
        with pytest.raises(FileNotFoundError, match="q2_k is not a folder"):
            resolve("XS:q2_k", tmp_path)


class TestCommand:
    def test_a_model_is_timed(self, tmp_path):
        out = tmp_path / "rows.json"
        done = bench(
            "generate", "--model", "XS", "--rounds", 1, "--provider", "reference", "--threads", 1,
            "--json", out, "--cache", tmp_path / "models",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(out.read_text(encoding="utf-8"))["rows"]
        assert (row["model"], row["provider"], row["threads"]) == ("XS", "reference", 1)
        assert row["tokens_per_s"] > 1 and row["prompt_per_s"] > row["tokens_per_s"]
        assert row["gb_per_s"] == pytest.approx(4 * 794_752 * row["tokens_per_s"] / 1e9)
        wanted = {"model", "tokens_per_s", "spread", "gb_per_s", "prompt_per_s", "first_s"}
        if kernels.cpu is not None:
            wanted |= {"limit", "share"}
        if sys.platform == "linux":
            wanted |= {"rss_mb", "beyond_mb"}
        assert wanted <= row.keys() and not {key for key in row if "ratio" in key}

    def test_a_peer_that_is_not_installed_is_left_out(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(decode.PEERS, "torch", ("nothing", "no_such_package", 0.0))
        options = argparse_of(against="torch", peer_python=None, model=None)
        decode.settle(options)
        assert options.against is None and options.model == ["S"]
        assert "torch: no_such_package is not installed for" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "arguments, line",
        [
            (("--model", "nothing"), "nothing is not a folder"),
            (("--model", "XS", "--rounds", "0"), "bench: rounds: 0, 1 or more is needed"),
            (("--against", "tinygrad"), "against: 'tinygrad', one of llama.cpp, torch is"),
        ],
    )
    def test_a_wrong_command_line_is_one_line(self, tmp_path, arguments, line):
        done = bench("generate", *arguments, "--cache", tmp_path)
        assert done.returncode == 2 and line in done.stderr and done.stderr.count("\n") == 1


def test_our_far_end_writes_what_generation_writes(tmp_path):
    model = resolve("XS", tmp_path)
    options = {"path": str(model.path), "threads": 1, "precision": "f32", "vocabulary": False}
    with closing(Process("ours", sys.executable, "bench.decode_ours", options)) as process:
        process([3, 4, 5], 2)  # is forgotten
        found = process([1, 2, 3, 4], 5)["ids"]
    greedy = Sampler(temperature=0.0)
    right = generate_ids(load_model(model.path), [1, 2, 3, 4], greedy, np.random.default_rng(0))
    assert found == [next(right) for _ in range(6)]


def test_pytorchs_far_end_has_our_logits(tmp_path):
    pytest.importorskip("torch")
    model = resolve("XS", tmp_path)
    options = {"path": str(model.path), "threads": 1, "precision": "f32", "vocabulary": False,
               "context": 1024}  # fmt: skip
    starts = {
        name: partial(Process, name, sys.executable, module, options)
        for name, module in (("cpu", "bench.decode_ours"), ("torch", "bench.peer_torch_decode"))
    }
    assert decode.disagreements(starts, [1, 2, 3, 4], {"cpu": 0.0, "torch": 1e-4}) == []

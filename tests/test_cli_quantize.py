"""`minillm quantize`: what is written, what is said of it, and what is refused."""

import json
import math

import numpy as np
import pytest

import small_encoders
from minillm import machine
from minillm.cli import quantize as command
from minillm.formats import gguf
from minillm.models.folder import load, load_model, save_model
from minillm.models.gguf_export import write_gguf
from minillm.quant import evaluation
from minillm.quantities import size
from minillm.tokenizers import CharTokenizer
from small_gpt2 import IDS, logits, small
from small_runs import minillm

TOKENIZER = CharTokenizer.from_characters("abcdefghijkl", ())
MOST = {"f16": 0.005, "bf16": 0.05, "q8_0": 0.1, "q6_k": 0.4}  # of the largest logit
TEXT = "abcdefghijklabcdefghabelkjiha"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models whose rows are 256 and 64 numbers long, a text, and one that has no tokenizer."""
    place = tmp_path_factory.mktemp("models")
    save_model(place / "wide", small(n_embd=256, n_head=4), TOKENIZER)
    save_model(place / "narrow", small(n_embd=64, n_head=4), TOKENIZER)
    save_model(place / "mute", small(n_embd=64, n_head=4))
    save_model(place / "bert", small_encoders.small("bert"))
    (place / "text.txt").write_text(TEXT, encoding="utf-8")
    (place / "empty.txt").write_text("", encoding="utf-8")
    (place / "latin.txt").write_bytes(b"ab\xe4")
    return place


def run(capsys, *words):
    """What is printed, as JSON, and the lines beside it but for a slow machine's progress."""
    assert minillm("quantize", *words, "--json") == 0
    printed = capsys.readouterr()
    said = [line for line in printed.err.splitlines() if "a second" not in line]
    return json.loads(printed.out), said


def refused(capsys, *words):
    assert minillm("quantize", *words) == 2
    *notes, last = capsys.readouterr().err.splitlines()
    assert all("minillm: note: " in note for note in notes)
    return last


class TestWriting:
    @pytest.mark.parametrize("dtype", command.TYPES)
    def test_every_type(self, models, capsys, tmp_path, dtype):
        found, said = run(capsys, models / "wide", tmp_path / "a.gguf", "--type", dtype)
        assert not said
        tensors = gguf.read(tmp_path / "a.gguf")[1]
        assert tensors["blk.0.ffn_up.weight"].kind == dtype.upper()
        assert found["numbers"][dtype.upper()] > 0.9 * sum(found["numbers"].values())
        assert sum(found["numbers"].values()) == small(n_embd=256, n_head=4).config.parameter_count
        right = logits(load_model(models / "wide"))
        difference = np.abs(logits(load_model(tmp_path / "a.gguf")) - right).max()
        most = MOST.get(dtype, 0.7)
        assert 0 < difference < most * np.abs(right).max()
        assert 0 < found["largest_logit_difference"] < most * found["largest_logit"]
        assert found["in"]["bytes"] == (models / "wide" / "model.safetensors").stat().st_size
        assert found["out"]["bytes"] == (tmp_path / "a.gguf").stat().st_size
        assert load(tmp_path / "a.gguf")[1].encode("badge") == TOKENIZER.encode("badge")

    def test_the_file_is_that_of_convert(self, models, capsys, tmp_path):
        run(capsys, models / "wide", tmp_path / "a.gguf", "--type", "q4_k")
        assert minillm("convert", models / "wide", tmp_path / "b.gguf", "--dtype", "q4_k") == 0
        assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()

    def test_other_rows_get_another_type_which_is_said(self, models, capsys, tmp_path):
        found, said = run(capsys, models / "narrow", tmp_path / "a.gguf", "--type", "q4_k")
        assert said == [
            "minillm: note: 1 matrix has rows that are no whole blocks of Q6_K, written as Q8_0",
            "minillm: note: 6 matrices have rows that are no whole blocks of Q4_K, written as Q5_0",
        ]
        assert found["numbers"].keys() == {"Q5_0", "Q4_K", "Q8_0", "F32"}

    def test_rounding_what_is_rounded_is_said(self, models, capsys, tmp_path):
        run(capsys, models / "wide", tmp_path / "a.gguf", "--type", "q8_0")
        _, said = run(capsys, tmp_path / "a.gguf", tmp_path / "b.gguf", "--type", "q4_0")
        assert said == [
            f"minillm: note: {tmp_path / 'a.gguf'} holds Q8_0 numbers already, rounding them again "
            "adds to the loss; begin with the original if you have it"
        ]
        one, other = (gguf.read(tmp_path / name)[0] for name in ("a.gguf", "b.gguf"))
        for key in (key for key in one if key.startswith("tokenizer.")):
            assert np.array_equal(one[key], other[key]), key

    def test_the_table(self, models, capsys, tmp_path):
        assert minillm("quantize", models / "wide", tmp_path / "a.gguf", "--type", "q8_0") == 0
        head, sizes, held, difference = capsys.readouterr().out.splitlines()
        assert head.split() == ["before", "q8_0"]
        assert sizes.startswith("size ") and sizes.endswith("27%")
        assert held.startswith("numbers held as Q8_0 99.")
        assert difference.startswith("largest logit difference on the reference prompt: 0.")


class TestEvaluation:
    def test_perplexities_are_those_of_score(self, models, capsys, tmp_path):
        words = (models / "wide", tmp_path / "a.gguf", "--type", "q4_0")
        windows = ("--context", "8", "--stride", "5")
        found, said = run(capsys, *words, "--evaluate", models / "text.txt", *windows)
        note = "minillm: note: 29 tokens are more than the context of 8, read in "
        assert said == [f"{note}6 windows that begin 5 tokens apart"]
        for side, path in (("in", models / "wide"), ("out", tmp_path / "a.gguf")):
            assert minillm("score", path, "--file", models / "text.txt", *windows, "--json") == 0
            right = json.loads(capsys.readouterr().out)
            for key in ("perplexity", "perplexity_error", "bits_per_byte"):
                assert found[side][key] == right[key]
            assert found[side].keys() > {"decoded_tokens_per_s", "read_tokens_per_s"}
        ratio = found["out"]["perplexity"] / found["in"]["perplexity"]
        assert found["perplexity_ratio"] == pytest.approx(ratio)
        assert 0 < found["perplexity_ratio_error"] < found["in"]["perplexity_error"]
        assert (found["scored"], found["windows"]) == (28, 6)

    @pytest.mark.parametrize(
        "seconds, speeds", [(0, ["tokens/s decoded", "tokens/s read"]), (math.inf, [])]
    )
    def test_the_table_has_both_sides(self, models, capsys, tmp_path, monkeypatch, seconds, speeds):
        monkeypatch.setattr(evaluation, "SECONDS", seconds)  # that a speed takes to be told
        words = (models / "wide", tmp_path / "a.gguf", "--type", "q4_0")
        assert minillm("quantize", *words, "--evaluate", models / "text.txt") == 0
        _, *lines = capsys.readouterr().out.splitlines()
        *rows, change, _, _ = lines
        titles = [line[:18].strip() for line in rows]
        assert titles == ["size", "perplexity", "standard error", "bits per byte", *speeds]
        assert change.startswith("perplexity changes by ")
        assert change.endswith("%, on 28 tokens") and " +- " in change

    def test_without_room_for_both_models_there_are_no_speeds(
        self, models, capsys, tmp_path, monkeypatch
    ):
        scored = command._scored

        def scored_then_short(*words, said=False):
            found = scored(*words, said=said)
            if said:  # the last one
                monkeypatch.setattr(machine, "available_memory", lambda: 1000)
            return found

        monkeypatch.setattr(evaluation, "SECONDS", 0)
        monkeypatch.setattr(command, "_scored", scored_then_short)
        words = (models / "wide", tmp_path / "a.gguf", "--type", "q4_0")
        found, said = run(capsys, *words, "--evaluate", models / "text.txt")
        needed = size(4 * small(n_embd=256, n_head=4).config.parameter_count)
        note = (
            f"minillm: note: no speeds, as {models / 'wide'} takes {needed} of memory beside the "
        )
        assert said[-1] == note + "new model and 1.0 kB are free"
        assert found["in"]["read_tokens_per_s"] is found["out"]["decoded_tokens_per_s"] is None
        assert found["out"]["perplexity"] > 0


class TestRefusals:
    @pytest.mark.parametrize(
        "words, line",
        [
            (("wide", "a.bin", "--type", "q8_0"), "a.bin is to hold GGUF, a name that ends in .gg"),
            (("wide", "text.txt.gguf/a.gguf", "--type", "q8_0"), "there is no folder"),
            (("none", "a.gguf", "--type", "q8_0"), "none is not a folder, nor a .gguf file"),
            (("bert", "a.gguf", "--type", "q8_0"), "bert cannot be written, one of llama"),
            (("wide", "a.gguf", "--type", "q8_0", "--stride", "3"), "minillm: stride: no text to"),
            (("wide", "a.gguf", "--type", "q2_k"), "minillm: type: 'q2_k', one of bf16, f16, q8_0"),
            (("wide", "a.gguf"), "minillm: quantize: no --type given, a value is needed"),
        ],
    )  # fmt: skip
    def test_what_is_refused(self, models, capsys, monkeypatch, words, line):
        monkeypatch.chdir(models)
        before = sorted(models.iterdir())
        try:
            assert minillm("quantize", *words) == 2
        except SystemExit as stopped:
            assert stopped.code == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and line in error[0]
        assert sorted(models.iterdir()) == before

    @pytest.mark.parametrize(
        "model, text, more, line",
        [
            (
                "wide",
                "empty.txt",
                (),
                "minillm: quantize: a text of 0 tokens, at least 1 is needed",
            ),
            (
                "wide",
                "none.txt",
                (),
                "none.txt: no such file or directory, one that is there is needed",
            ),
            ("wide", "latin.txt", (), "byte 0xE4 of"),
            ("wide", "text.txt", ("--context", "10"), "minillm: quantize: a context of 10, 2 to 9"),
            ("mute", "text.txt", (), "tokenizer"),
        ],
    )
    def test_texts_are_refused_before_anything_is_written(
        self, models, capsys, tmp_path, monkeypatch, model, text, more, line
    ):
        monkeypatch.setattr("minillm.cli.writing.write_gguf", None)
        words = (models / model, tmp_path / "a.gguf", "--type", "q8_0", "--evaluate", models / text)
        assert line in refused(capsys, *words, *more)
        assert not list(tmp_path.iterdir())

    def test_a_place_that_is_taken(self, models, capsys, tmp_path):
        (tmp_path / "a.gguf").write_bytes(b"mine")
        line = refused(capsys, models / "wide", tmp_path / "a.gguf", "--type", "q8_0")
        assert "a.gguf is there already, a new name is needed" in line
        assert (tmp_path / "a.gguf").read_bytes() == b"mine"

    def test_numbers_that_do_not_fit(self, capsys, tmp_path):
        model = small(n_embd=64, n_head=4)
        model.h[0].mlp.c_fc.weight.data[0, 0] = 1e9
        save_model(tmp_path / "hf", model, TOKENIZER)
        line = refused(capsys, tmp_path / "hf", tmp_path / "a.gguf", "--type", "q8_0")
        assert "blk.0.ffn_up.weight: numbers up to 1e+09 cannot be held in Q8_0" in line
        assert [path.name for path in tmp_path.iterdir()] == ["hf"]

    @pytest.mark.parametrize("place", ["encode", "largest_difference"])
    def test_an_interruption_leaves_nothing(self, models, capsys, tmp_path, monkeypatch, place):
        """While the file is written, and when it is compared."""
        home = "minillm.formats.gguf_writing" if place == "encode" else "minillm.cli.writing"

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(f"{home}.{place}", interrupted)
        assert minillm("quantize", models / "wide", tmp_path / "a.gguf", "--type", "q8_0") == 130
        assert not list(tmp_path.iterdir())


def test_a_model_without_a_tokenizer_is_written_without_one(models, capsys, tmp_path):
    _, said = run(capsys, models / "mute", tmp_path / "a.gguf", "--type", "q8_0")
    assert said == [f"minillm: note: {models / 'mute'} has no tokenizer, none is written"]
    write_gguf(tmp_path / "b.gguf", load_model(models / "mute"), None, "q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_logits_of_the_fixture_are_not_flat():
    """Else the differences above would mean nothing."""
    assert np.ptp(logits(small(n_embd=256, n_head=4), IDS[:, :4])) > 1

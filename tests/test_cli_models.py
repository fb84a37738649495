"""`minillm info`, `predict` and `score`: what they print, as tables and as JSON, and refuse."""

import io
import json
import sys
import time

import numpy as np
import pytest

import small_encoders
import small_t5
from minillm import kernels
from minillm.formats import safetensors
from minillm.models import GPT2, GPT2Config
from minillm.models.folder import save_model
from minillm.models.gguf_export import write_gguf
from minillm.tokenizers import ByteTokenizer, CharTokenizer
from small_gpt2 import small
from small_runs import minillm, process, written

TOKENIZER_OF_11 = CharTokenizer.from_characters("abcdefghijk", ())
TOKENIZER = CharTokenizer.from_characters("abcdefghijkl", ())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders and a file, small enough to be made at once."""
    place = tmp_path_factory.mktemp("models")
    save_model(place / "gpt2", small(), TOKENIZER)
    save_model(place / "bare", small())
    save_model(place / "shards", small(n_embd=36), TOKENIZER, dtype="bf16", shard_bytes=9000)
    save_model(place / "bert", small_encoders.small("bert"), None)
    save_model(place / "t5", small_t5.small(), TOKENIZER)
    bytewise = small(vocab_size=257, n_embd=64, n_head=4)
    write_gguf(place / "a.gguf", bytewise, ByteTokenizer(), "q8_0")
    written(place / "long.txt", "abcdefghijkl" * 5)
    return place


def out(capsys, *words):
    assert minillm(*words) == 0
    return capsys.readouterr().out


def refused(capsys, *words):
    assert minillm(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err.removeprefix("minillm: ").rstrip("\n")


class TestPredict:
    """The numbers are those of transformers 5.24 in float64, of 13 rows, 12 with letters."""

    def test_the_table(self, models, capsys):
        lines = out(capsys, "predict", models / "gpt2", "abel", "--top", 3).splitlines()
        assert lines == [
            "      id  token                probability      logit",
            "       2  'c'                     40.9150%     2.7320",
            "      11  'l'                     19.5198%     1.9920",
            "       0  'a'                      9.6938%     1.2920",
        ]

    def test_json_is_the_same(self, models, capsys):
        content = json.loads(out(capsys, "predict", models / "gpt2", "abel", "--json"))
        assert content.keys() == {"top"}
        assert len(content["top"]) == 5
        assert content["top"][0] == {
            "id": 2,
            "token": "c",
            "probability": pytest.approx(0.4091496217, abs=1e-6),
            "logit": pytest.approx(2.7320268003, abs=1e-5),
        }

    def test_standard_input(self, models, capsys, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abel")))
        right = out(capsys, "predict", models / "gpt2", "abel")
        assert out(capsys, "predict", models / "gpt2", "-") == right

    def test_a_gguf_file_and_shards(self, models, capsys):
        for name in ("a.gguf", "shards", "t5"):
            content = json.loads(out(capsys, "predict", models / name, "abel", "--json"))
            assert len(content["top"]) == 5

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (("gpt2", ""), "predict: a text of 0 tokens, 1 to 9 (the model's context) are needed"),
            (
                ("gpt2", "a" * 10),
                "predict: a text of 10 tokens, 1 to 9 (the model's context) are n",
            ),
            (("gpt2", "Z"), "unknown character 'Z' (U+005A) at position 0"),
            (("gpt2", "a", "--top", "0"), "top: 0, 1 or more is needed"),
            (("gpt2", "a", "--threads", "0"), "threads: 0 asked for, at least 1 is needed"),
            (("bare", "a"), "bare has no tokenizer.json, a tokenizer is needed"),
            (("none", "a"), "is not a folder, nor a .gguf file"),
            (("long.txt", "a"), "is not a folder nor a GGUF file"),
            (("gpt2/model.safetensors", "a"), "give the folder: "),
        ],
    )
    def test_what_is_refused(self, models, capsys, words, line):
        assert line in refused(capsys, "predict", models / words[0], *words[1:])


class TestScore:
    def test_the_table(self, models, capsys):
        assert out(capsys, "score", models / "gpt2", "--text", "abel").splitlines() == [
            "      id  token                log-probability",
            "       0  'a'                  (nothing before it)",
            "       1  'b'                          -4.0478",
            "       4  'e'                          -4.1243",
            "      11  'l'                          -4.5659",
            "log-probability -12.7381 of 3 tokens",
            "perplexity      69.8276 +- 11.2754",
            "bits per byte   6.1257 (3 bytes)",
        ]

    def test_json_adds_up(self, models, capsys):
        content = json.loads(out(capsys, "score", models / "gpt2", "--text", "abel", "--json"))
        values = [token["log_probability"] for token in content["tokens"]]
        assert values[0] is None
        assert [token["token"] for token in content["tokens"]] == list("abel")
        assert content["log_probability"] == pytest.approx(sum(values[1:]))
        assert content["perplexity"] == pytest.approx(np.exp(-sum(values[1:]) / 3))
        assert content["bits_per_byte"] == pytest.approx(-sum(values[1:]) / np.log(2) / 3)
        assert (content["scored"], content["bytes"], content["windows"]) == (3, 3, 1)

    def test_a_file_longer_than_the_context_is_read_in_windows_which_is_said(self, models, capsys):
        words = ("score", models / "gpt2", "--file", models / "long.txt")
        assert minillm(*words) == 0
        captured = capsys.readouterr()
        assert captured.err == (
            "minillm: note: 60 tokens are more than the context of 9, "
            "read in 14 windows that overlap by half\n"
        )
        assert "     ...  20 more with --json\n" in captured.out
        assert "of 59 tokens\n" in captured.out
        content = json.loads(out(capsys, *words, "--json"))
        assert (len(content["tokens"]), content["windows"]) == (60, 14)

    def test_a_byte_order_mark_is_no_text(self, models, capsys):
        marked = written(models / "marked.txt", b"\xef\xbb\xbfabel")
        right = out(capsys, "score", models / "gpt2", "--text", "abel")
        assert out(capsys, "score", models / "gpt2", "--file", marked) == right

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (("gpt2", "--text", ""), "score: a text of 0 tokens, at least 1 is needed"),
            (
                ("gpt2", "--text", "a"),
                "score: a text of 1 token and a context of 9, at least 2 are",
            ),
            (("gpt2", "--file", "none"), "none: no such file or directory"),
            (
                ("t5", "--text", "abc"),
                "score: the model is an encoder-decoder, a decoder is needed",
            ),
        ],
    )
    def test_what_is_refused(self, models, capsys, words, line):
        assert line in refused(capsys, "score", models / words[0], *words[1:])

    def test_an_encoder_writes_no_text(self, tmp_path, capsys):
        save_model(tmp_path, small_encoders.small("bert", "ForMaskedLM"), TOKENIZER_OF_11)
        for words in (
            ("generate", tmp_path, "--prompt", "ab"),
            ("score", tmp_path, "--text", "ab"),
        ):
            assert "the model is an encoder" in refused(capsys, *words)
        assert "no head that predicts tokens" in refused(capsys, "predict", tmp_path, "ab")

    def test_what_cannot_be_parsed(self, models, capsys):
        for words in ((), ("--text", "a", "--file", "b"), ("--text",)):
            assert minillm("score", models / "gpt2", *words) == 2
            assert capsys.readouterr().err.count("\n") == 1

    def test_a_file_that_is_not_utf_8(self, models, capsys):
        path = written(models / "latin.txt", b"ab\xe9")
        line = refused(capsys, "score", models / "gpt2", "--file", path)
        assert line.startswith(f"score: byte 0xE9 of {path}, at offset 2, is not UTF-8")


class TestInfo:
    def test_the_lines(self, models, capsys):
        lines = out(capsys, "info", models / "gpt2").splitlines()
        size = (models / "gpt2/model.safetensors").stat().st_size
        assert lines[:7] == [
            "model       gpt2 (GPT2LMHeadModel), decoder",
            "parameters  4.1k (4,056)",
            "shape       2 layers, width 12, 3 heads",
            "context     9 tokens",
            "vocabulary  13 embeddings",
            "tokenizer   char, 12 tokens",
            f"file        model.safetensors, {size / 1000:.1f} kB: 4.1k in F32",
        ]
        assert lines[7].startswith(
            "to run      16.2 kB of memory in float32, and 192 B for each to"
        )
        assert lines[8].startswith("to tune     about ")
        assert lines[9] == (
            "checks      digest of all content and reference logits stored, compared when it is "
            "loaded"
        )

    def test_json(self, models, capsys):
        content = json.loads(out(capsys, "info", models / "shards", "--json"))
        config = small(n_embd=36).config
        assert content["parameters"] == config.parameter_count
        assert content["dtypes"] == {"BF16": config.parameter_count}
        assert content["format"] == "safetensors" and len(content["files"]) > 2
        assert content["memory"]["float32"] == 4 * config.parameter_count
        embedded = (13 + 9) * 36  # stay in 16 bits; Conv1D's matrices are stored transposed
        widened = kernels.active_cpu is None
        saved = 0 if widened else 2 * embedded
        assert content["memory"]["run"] == 4 * config.parameter_count - saved
        assert content["memory"]["per_token"] == 2 * 4 * 2 * 36
        assert content["memory"]["tune"] > 16 * config.parameter_count
        assert content["tokenizer"] == {"kind": "char", "vocab_size": 12}
        assert content["checks"] == {"digest": True, "reference_logits": True}

    def test_a_gguf_file(self, models, capsys):
        content = json.loads(out(capsys, "info", models / "a.gguf", "--json"))
        assert content["format"] == "gguf" and content["family"] == "gpt2"
        assert content["dtypes"].keys() == {"Q8_0", "F32"}
        assert sum(content["dtypes"].values()) == content["parameters"]
        assert content["checks"] == {"digest": False, "reference_logits": False}
        assert "none stored" in out(capsys, "info", models / "a.gguf")

    def test_other_families_and_no_tokenizer(self, models, capsys):
        for name, family in (("bert", "bert"), ("t5", "t5"), ("bare", "gpt2")):
            content = json.loads(out(capsys, "info", models / name, "--json"))
            assert content["family"] == family
            assert content["width"] and content["heads"] and content["layers"] == 2
            assert (content["tokenizer"] is None) == (name != "t5")
        assert "tokenizer   none" in out(capsys, "info", models / "bare")
        assert "context     unbounded" in out(capsys, "info", models / "t5")

    def test_a_tokenizer_that_cannot_be_used_is_said(self, models, capsys, tmp_path):
        save_model(tmp_path, small(), TOKENIZER)
        (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
        assert "tokenizer   load: " in out(capsys, "info", tmp_path)

    def test_it_answers_without_reading_the_weights(self, tmp_path, capsys):
        """A file of 2 TiB that takes no place on the disk."""
        from test_opening import giant

        giant(tmp_path)
        begin = time.perf_counter()
        text = out(capsys, "info", tmp_path)
        assert time.perf_counter() - begin < 2
        assert "parameters  550B" in text
        assert "to run      2.2 TB of memory in float32" in text
        assert "; only " in text and "are free" in text

    def test_a_damaged_file_is_refused(self, models, capsys, tmp_path):
        save_model(tmp_path, small(), TOKENIZER)
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        assert "not a readable safetensors file" in refused(capsys, "info", tmp_path)


class TestWhatANewcomerTries:
    def test_no_path_is_not_the_folder_one_is_in(self, models, capsys, monkeypatch):
        monkeypatch.chdir(models / "gpt2")
        for words in (["info"], ["predict", "a"], ["generate"], ["embed", "a"]):
            line = refused(capsys, words[0], "", *words[1:])
            assert line == "load: the path is empty, a folder, a .gguf file or a name is needed"

    def test_a_text_needs_a_tokenizer(self, models, capsys):
        line = refused(capsys, "predict", models / "bare", "a")
        assert line == f"load: {models / 'bare'} has no tokenizer.json, a tokenizer is needed"

    def test_an_option_is_not_corrected_to_itself_or_to_that_of_another_command(
        self, models, capsys
    ):
        for words, line in (
            (["info", "--threads"], "info: unknown option --threads; minillm info --help"),
            (["predict", "a", "--tpo", "3"], "predict: unknown option --tpo; did you mean --top?"),
            (["predict", "a", "b"], "minillm: predict: unexpected argument b, none is needed"),
        ):
            assert minillm(words[0], models / "gpt2", *words[1:]) == 2
            error = capsys.readouterr().err
            assert line in error and error.count("\n") == 1


def test_the_classic_first_example(tmp_path):
    """A folder as GPT-2's own: byte tokens, no prefix, one process, five lines."""
    config = GPT2Config(vocab_size=257, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    save_model(tmp_path, GPT2(config, seed=1), ByteTokenizer())
    arrays, _ = safetensors.read(tmp_path / "model.safetensors")
    arrays = {name.removeprefix("transformer."): np.array(a) for name, a in arrays.items()}
    safetensors.write(tmp_path / "model.safetensors", arrays, {"format": "pt"})
    done = process("predict", tmp_path, "Once upon a time", "--top", 5)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 6

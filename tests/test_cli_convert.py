"""`minillm convert`: what is written gives the same logits, and what cannot be held is refused."""

import json
import warnings

import numpy as np
import pytest

import small_encoders
import small_t5
from minillm.formats import gguf
from minillm.models.folder import load, load_model, logits_of, save_model
from minillm.models.gguf_names import to_gguf
from minillm.tokenizers import ByteTokenizer, CharTokenizer
from small_gpt2 import IDS, logits, small
from small_runs import minillm

TOKENIZER = CharTokenizer.from_characters("abcdefghijkl")


@pytest.fixture
def folder(tmp_path):
    """A model whose rows are whole blocks, with a tokenizer."""
    save_model(tmp_path / "hf", small(n_embd=64, n_head=4), TOKENIZER)
    return tmp_path / "hf"


def converted(capsys, *words):
    """What is printed, as JSON, and what is said beside it."""
    assert minillm("convert", *words, "--json") == 0
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


def refused(capsys, *words):
    assert minillm("convert", *words) == 2
    error = capsys.readouterr().err
    *notes, last = error.splitlines()
    assert last.startswith("minillm: ") and all("minillm: note: " in note for note in notes)
    return last


class TestFormats:
    def test_a_folder_becomes_a_file_and_a_folder_again(self, folder, capsys, tmp_path):
        found, _ = converted(capsys, folder, tmp_path / "a.gguf")
        assert found["largest_logit_difference"] == 0
        assert found["in"]["bytes"] == (folder / "model.safetensors").stat().st_size
        assert found["out"] == {
            "path": str(tmp_path / "a.gguf"),
            "bytes": (tmp_path / "a.gguf").stat().st_size,
            "to": "gguf",
            "dtype": "f32",
        }
        right = logits(load_model(folder))
        np.testing.assert_array_equal(logits(load_model(tmp_path / "a.gguf")), right)
        metadata = gguf.read(tmp_path / "a.gguf")[0]
        assert metadata["tokenizer.ggml.tokens"][:12] == list("abcdefghijkl")

    def test_numbers_of_blocks_become_a_folder_of_the_same_logits(self, capsys, tmp_path):
        model = small(n_embd=64, n_head=4)
        for parameter in model.parameters():
            parameter.data *= 30  # blocks round activations: here that is more than is tolerated
        save_model(tmp_path / "hf", model, TOKENIZER)
        converted(capsys, tmp_path / "hf", tmp_path / "a.gguf", "--dtype", "q8_0")
        found, _ = converted(capsys, tmp_path / "a.gguf", tmp_path / "wide")
        assert found["largest_logit_difference"] == 0

    def test_without_a_tokenizer_it_is_said_and_all_else_is_written(self, capsys, tmp_path):
        save_model(tmp_path / "hf", small())
        note = "has no tokenizer, none is written"
        assert note in converted(capsys, tmp_path / "hf", tmp_path / "a.gguf")[1]
        assert note in converted(capsys, tmp_path / "a.gguf", tmp_path / "again")[1]
        again = load_model(tmp_path / "again")
        assert again.config == small().config
        np.testing.assert_array_equal(logits(again), logits(small()))

    @pytest.mark.parametrize(
        "dtype, share, least, most",
        [
            ("f16", 0.50, 1e-5, 5e-3),
            ("bf16", 0.50, 1e-4, 5e-2),
            ("q8_0", 0.27, 1e-3, 5e-2),
            ("q4_0", 0.16, 1e-2, 0.5),
            ("q4_1", 0.18, 1e-2, 0.5),
        ],
    )
    def test_smaller_numbers_take_less_and_change_more(
        self, capsys, tmp_path, dtype, share, least, most
    ):
        model = small(n_embd=256, n_head=4, n_positions=4)
        save_model(tmp_path / "hf", model, TOKENIZER)
        found, _ = converted(capsys, tmp_path / "hf", tmp_path / "a.gguf", "--dtype", dtype)
        assert found["out"]["bytes"] / found["in"]["bytes"] == pytest.approx(share, abs=0.02)
        change = found["largest_logit_difference"] / found["largest_logit"]
        assert least < change < most
        ids = IDS[:, :4]
        difference = np.abs(logits(load_model(tmp_path / "a.gguf"), ids) - logits(model, ids)).max()
        assert least < difference / found["largest_logit"] < 2 * most

    def test_the_vocabulary_of_a_file_is_carried_over_as_it_is(self, folder, capsys, tmp_path):
        converted(capsys, folder, tmp_path / "a.gguf")
        converted(capsys, tmp_path / "a.gguf", tmp_path / "b.gguf", "--dtype", "q8_0")
        one, other = (gguf.read(tmp_path / name)[0] for name in ("a.gguf", "b.gguf"))
        kept = [key for key in one if key.startswith("tokenizer.")]
        assert len(kept) > 5
        for key in kept:
            assert np.array_equal(one[key], other[key]), key

    @pytest.mark.parametrize("dtype, share", [("f32", 1.0), ("bf16", 0.5), ("f16", 0.5)])
    def test_a_folder_with_other_numbers(self, folder, capsys, tmp_path, dtype, share):
        found, _ = converted(capsys, folder, tmp_path / "new", "--dtype", dtype)
        assert found["out"]["bytes"] / found["in"]["bytes"] == pytest.approx(share, abs=0.05)
        assert (found["largest_logit_difference"] == 0) == (dtype == "f32")
        with warnings.catch_warnings(
            action="error"
        ):  # the logits stored are those of the rounded weights
            load_model(tmp_path / "new")
        assert load(tmp_path / "new")[1].encode("badge") == TOKENIZER.encode("badge")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "new"]

    def test_encoders_and_encoder_decoders_change_their_numbers(self, capsys, tmp_path):
        models = {"bert": small_encoders.small("bert"), "t5": small_t5.small()}
        for name, model in models.items():
            save_model(tmp_path / name, model)
            converted(capsys, tmp_path / name, tmp_path / f"{name}-bf16", "--dtype", "bf16")
            right = logits_of(model)(np.array([[1, 2, 3]]))
            got = logits_of(load_model(tmp_path / f"{name}-bf16"))(np.array([[1, 2, 3]]))
            assert 0 < np.abs(got - right).max() < 0.1 * np.abs(right).max()

    def test_rows_that_are_no_whole_blocks_are_written_as_f16_which_is_said(self, capsys, tmp_path):
        save_model(tmp_path / "odd", small(), TOKENIZER)
        _, said = converted(capsys, tmp_path / "odd", tmp_path / "a.gguf", "--dtype", "q4_0")
        note = "that are no whole blocks of"
        assert said.splitlines() == [
            f"minillm: note: 1 matrix has rows {note} Q8_0, written as F16",
            f"minillm: note: 8 matrices have rows {note} Q4_0, written as F16",
        ]
        kinds = {tensor.kind for tensor in gguf.read(tmp_path / "a.gguf")[1].values()}
        assert kinds == {"F16", "F32"}

    def test_an_empty_folder_is_filled(self, folder, capsys, tmp_path):
        (tmp_path / "new").mkdir()
        converted(capsys, folder, tmp_path / "new")
        assert (tmp_path / "new" / "tokenizer.json").is_file()

    def test_the_format_is_named_where_the_name_does_not_tell(self, folder, capsys, tmp_path):
        assert converted(capsys, folder, tmp_path / "a", "--to", "gguf")[0]["out"]["to"] == "gguf"
        assert (tmp_path / "a").read_bytes()[:4] == b"GGUF"

    def test_what_is_printed_names_sizes_and_the_difference(self, folder, capsys, tmp_path):
        assert minillm("convert", folder, tmp_path / "a.gguf", "--dtype", "q8_0") == 0
        first, second, last = capsys.readouterr().out.splitlines()
        assert first.startswith("in ") and first.endswith(str(folder)) and " kB " in first
        assert second.endswith("a.gguf, gguf q8_0, 29% of the size")
        assert last.startswith("largest logit difference on the reference prompt: 0.")


class TestRefusals:
    def test_what_the_target_does_not_hold(self, folder, capsys, tmp_path):
        error = refused(capsys, folder, tmp_path / "new", "--dtype", "q8_0")
        assert "hf does not hold q8_0, one of f32, bf16, f16 is needed; --to gguf" in error
        save_model(tmp_path / "gelu", small(activation_function="gelu"))
        error = refused(capsys, tmp_path / "gelu", tmp_path / "a.gguf")
        assert "activation_function='gelu' cannot be held" in error
        save_model(tmp_path / "bert", small_encoders.small("bert"))
        error = refused(capsys, tmp_path / "bert", tmp_path / "a.gguf")
        assert "bert cannot be written, one of llama" in error
        model = small()
        model.ln_f.weight.data[0] = 1e6
        save_model(tmp_path / "large", model)
        error = refused(capsys, tmp_path / "large", tmp_path / "new", "--dtype", "f16")
        assert "ln_f.weight: numbers up to 1e+06 cannot be held in F16" in error
        assert not any(p.name.startswith(("new", "a.gguf")) for p in tmp_path.iterdir())

    def test_a_tokenizer_that_does_not_fit(self, capsys, tmp_path):
        save_model(tmp_path / "hf", small(), ByteTokenizer())
        assert "257 tokens for 13 embeddings" in refused(
            capsys, tmp_path / "hf", tmp_path / "a.gguf"
        )

    def test_places_that_are_taken_or_missing(self, folder, capsys, tmp_path):
        (tmp_path / "taken.gguf").write_bytes(b"mine")
        for out in (tmp_path / "taken.gguf", folder):
            assert f"{out} is there already, a new name is needed" in refused(capsys, folder, out)
        assert (tmp_path / "taken.gguf").read_bytes() == b"mine"
        assert "there is no folder" in refused(capsys, folder, tmp_path / "no" / "a.gguf")
        assert "nothing" in refused(capsys, tmp_path / "nothing", tmp_path / "a.gguf")

    def test_a_write_that_fails_leaves_nothing(self, folder, capsys, tmp_path, monkeypatch):
        def full(*_, **__):
            raise OSError(28, "No space left on device", "model.safetensors")

        monkeypatch.setattr("minillm.models.folder.save_weights", full)
        assert "no space left" in refused(capsys, folder, tmp_path / "new")
        assert [path.name for path in tmp_path.iterdir()] == ["hf"]

    def test_a_result_that_computes_something_else_is_a_failure(
        self, folder, capsys, tmp_path, monkeypatch
    ):
        def mixed_up(name, array, *rest):
            return array[::-1] if name == "output_norm.weight" else to_gguf(name, array, *rest)

        monkeypatch.setattr("minillm.models.gguf_export.to_gguf", mixed_up)
        assert minillm("convert", folder, tmp_path / "a.gguf") == 1
        assert "a.gguf does not give the logits of" in capsys.readouterr().err

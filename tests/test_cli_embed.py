"""`minillm embed`: vectors, cosines, files, long texts, and what is no encoder."""

import io
import json
import sys

import numpy as np
import pytest

from minillm.formats import hf
from minillm.models import embedding
from minillm.models.folder import save_model
from real_models import minilm
from small_encoders import small
from small_gpt2 import small as small_gpt2
from small_runs import minillm
from small_tasks import word_piece
from test_embedding import COSINES, SENTENCE_IDS, SENTENCES

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "##s", "dog", "sat", "the", "."]
TEXTS = ["The cat sat.", "the dogs sat .", "A cat?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small BERT with a WordPiece tokenizer."""
    place = tmp_path_factory.mktemp("encoder")
    save_model(place, small("bert", "ForMaskedLM", pad_token_id=0))
    truncation = {"max_length": 4, "strategy": "LongestFirst", "stride": 0}
    hf.write_json(place / "tokenizer.json", word_piece(WORDS, truncation))
    return place


def told(capsys, *words):
    assert minillm("embed", *words) == 0
    return capsys.readouterr()


def refused(capsys, *words):
    assert minillm("embed", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_json_holds_everything(folder, capsys):
    found = json.loads(told(capsys, folder, *TEXTS, "--json").out)
    assert (found["dimensions"], found["pooling"], found["normalized"]) == (6, ["mean"], True)
    assert [entry["text"] for entry in found["texts"]] == TEXTS
    assert [entry["tokens"] for entry in found["texts"]] == [6, 7, 5]
    assert all(entry["cut"] == 0 for entry in found["texts"])
    vectors = np.array([entry["vector"] for entry in found["texts"]])
    embedder = embedding.load(folder)
    assert embedder.tokenize("the cats")[0] == [2, 9, 5, 6, 3]
    assert np.array_equal(vectors.astype(np.float32), embedder.encode(TEXTS))
    np.testing.assert_allclose(found["cosines"], vectors @ vectors.T, atol=2e-6)
    assert "cosines" not in json.loads(told(capsys, folder, "a", "--json").out)


def test_a_person_gets_a_table(folder, capsys):
    found = json.loads(told(capsys, folder, *TEXTS, "--json").out)
    lines = told(capsys, folder, *TEXTS).out.splitlines()
    assert lines[0] == "  1 The cat sat."
    first = "".join(f" {number:8.4f}" for number in found["texts"][0]["vector"][:5])
    assert lines[1] == f"    6 tokens:{first} ..."
    assert lines[6] == "6 numbers each, pooled by mean, normalised; all: --json"
    assert lines[8] == "cosine       1       2       3"
    shown = [[float(word) for word in line.split()[1:]] for line in lines[9:]]
    np.testing.assert_allclose(shown, found["cosines"], atol=6e-5)
    assert not any("cosine" in line for line in told(capsys, folder, "a").out.splitlines())


def test_texts_from_a_file_and_from_standard_input(folder, tmp_path, capsys, monkeypatch):
    data = b"\xef\xbb\xbfThe cat sat.\r\n\r\nthe dogs sat .\r\n  \nA cat?"
    expected = told(capsys, folder, *TEXTS).out
    (tmp_path / "texts").write_bytes(data)
    assert told(capsys, folder, "--file", tmp_path / "texts").out == expected
    assert told(capsys, folder, "The cat sat.", "--file", tmp_path / "texts").out != expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert told(capsys, folder, "--file", "-").out == expected
    (tmp_path / "many").write_text("a\n" * 21, encoding="utf-8")
    assert told(capsys, folder, "--file", tmp_path / "many").out.endswith("more than 20 texts\n")


def test_a_long_text_is_cut_and_said_to_be(folder, capsys):
    found = told(capsys, folder, "the cat sat . " * 3, "the cat sat . the cat sat", "--json")
    assert found.err == (
        "minillm: note: embed: 1 of 2 texts have more than 9 tokens and are cut to these\n"
    )
    first, second = json.loads(found.out)["texts"]
    assert (first["tokens"], first["cut"]) == (9, 5)
    np.testing.assert_allclose(first["vector"], second["vector"], atol=1e-6)


def test_what_lies_beside_the_model_is_heeded(folder, tmp_path, capsys):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    names = ["Transformer", "Pooling"]
    modules = [{"path": f"{i}_{name}", "type": f"x.{name}"} for i, name in enumerate(names)]
    hf.write_json(tmp_path / "modules.json", modules)
    (tmp_path / "1_Pooling").mkdir()
    content = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    hf.write_json(tmp_path / "1_Pooling" / "config.json", content)
    out = told(capsys, tmp_path, "a").out
    assert out.endswith("6 numbers each, pooled by cls, not normalised; all: --json\n")
    hf.write_json(tmp_path / "modules.json", [*modules, {"path": "2_Dense", "type": "x.Dense"}])
    message = refused(capsys, tmp_path, "a")
    assert "embed: modules Transformer, Pooling, Dense in" in message


def test_what_cannot_be_is_refused_in_one_line(folder, tmp_path, capsys):
    assert refused(capsys, folder) == (
        "minillm: embed: no text given, at least 1 is needed: minillm embed PATH TEXT"
    )
    assert "is not a folder" in refused(capsys, tmp_path / "nothing", "a")
    assert "no such file" in refused(capsys, folder, "--file", tmp_path / "nothing")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert refused(capsys, folder, "--file", tmp_path / "latin").endswith(
        "latin, at offset 3, is not UTF-8, a text in UTF-8 is needed"
    )
    save_model(tmp_path / "other", small("bert", vocab_size=10))
    (tmp_path / "other" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert "has 11 ids, the model only 10; they do" in refused(capsys, tmp_path / "other", "a")
    save_model(tmp_path / "decoder", small_gpt2())
    assert refused(capsys, tmp_path / "decoder", "a").endswith(
        "decoder is a decoder, an encoder is needed, such as BERT"
    )


@pytest.mark.parametrize("backend", ["python", "auto"])
def test_minilm_gives_the_published_cosines(capsys, monkeypatch, backend):
    folder = minilm()
    monkeypatch.setenv("MINILLM_TOKENIZERS", backend)
    found = json.loads(told(capsys, folder, *SENTENCES, "--json").out)
    assert [entry["tokens"] for entry in found["texts"]] == [len(ids) for ids in SENTENCE_IDS]
    np.testing.assert_allclose(found["cosines"], COSINES, atol=5e-5)

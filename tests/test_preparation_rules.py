"""Cleaning, quality rules and mixtures of a preparation, and what the command says."""

import gzip
import io
import json
import os
import re
import sys

import numpy as np
import pytest

from minillm.data import Prepared
from minillm.data.preparation.measures import Measures
from minillm.data.preparation.quality import NAMES, RULES, broken, quality
from small_runs import minillm
from small_texts import BYTES, documents_of, prepared, records, sentences

GOOD = (
    "The river was wide and the boat was small. He did not want to go in it, but she said that it "
    "would be fine.\nSo they went to the other side with all of the bread, and it took an hour. "
    "There was a garden on the other side, and in that garden stood a lamp.\nNobody had lit it for "
    "a long time. They sat down under it to eat, and talked of the road that was still to come."
)


def breaks(text: str) -> set[str]:
    bits = int(broken(Measures([text]))[0])
    return {name for bit, name in enumerate(NAMES) if bits >> bit & 1}


def test_ordinary_text_keeps_all_rules():
    assert breaks(GOOD) == set()
    assert quality(np.array([0, 1, 0b11])).tolist() == pytest.approx([1, 0.9, 0.8])


@pytest.mark.parametrize(
    "rule, text",
    [
        ("50 to 100,000 words", GOOD[:110]),
        ("words of 3 to 10 characters on average", re.sub(r"\w+", "incomprehensibility", GOOD)),
        ("at most one # or ellipsis to 10 words", GOOD.replace("the ", "#the ... ")),
        ("at most 90 % of the lines begin with a bullet", "- " + GOOD.replace("\n", "\n  * ")),
        ("at most 30 % of the lines end with an ellipsis", GOOD.replace("\n", "...\n") + "…"),
        ("at least 80 % of the words hold a letter", GOOD + " 12 345 6" * 10),
        ("two frequent words of its language", "Xkcd qwyt zzyzx plugh. " * 3 + " vortex" * 50),
        ("at most 30 % of the lines came before", (GOOD + "\n") * 2),
        ("at most 20 % of five words in a row came before", f"{GOOD} {GOOD[:250]}"),
        ("at least three sentences end", GOOD.replace(".", ",")),
    ],
)
def test_each_rule_is_broken_by_what_it_is_for(rule, text):
    assert rule in breaks(text)
    assert len(RULES) == 10


def test_texts_below_the_quality_go_and_are_counted(tmp_path):
    texts = [GOOD + f" This is number {i}." for i in range(25)]
    bad = [GOOD[:60], "### " * 80]
    out = prepared(
        records(tmp_path / "a.jsonl", [*bad, *texts]), tmp_path / "out", min_quality=0.85,
        val_fraction=0,
    )  # fmt: skip
    assert documents_of(out.dataset(BYTES).train) == texts
    removed = [json.loads(line) for line in (tmp_path / "out/removed.jsonl").open()]
    assert [line["reason"] for line in removed] == ["low quality"] * 2
    assert set(removed[0]["breaks"]) == breaks(bad[0])
    assert out.content["rules broken"]["50 to 100,000 words"] == 2
    assert out.content["removed"]["low quality"]["texts"] == 2


def test_text_is_cleaned_as_asked(tmp_path):
    line = "Cafe\u0301 \ufb01t\x00\x07 \x85end\ttab"
    texts = [f"{line}\nAll rights reserved.\nPlease enable JavaScript to see this.\nkept {i}"
             for i in range(3)]  # fmt: skip
    source = records(tmp_path / "a.jsonl", texts)
    for form, first in (
        ("nfc", "Café \ufb01t end\ttab"),
        ("nfkc", "Café fit end\ttab"),
        ("none", "Cafe\u0301 \ufb01t end\ttab"),
    ):
        out = prepared(
            source, tmp_path / form, normalize=form, drop_boilerplate=True, val_fraction=0
        )
        wanted = [f"{first}\nkept {i}" for i in range(3)]
        assert documents_of(out.dataset(BYTES).train) == wanted
        assert out.content["cleaned"]["control characters removed"] == 9
        assert out.content["cleaned"]["boilerplate lines removed"] == 6


def test_personal_data_is_scrubbed_and_its_places_told(tmp_path):
    texts = [sentences(i) for i in range(25)]
    texts[3] += "Ask jo@example.org,\nor call 555-123-4567."
    source = records(tmp_path / "a.jsonl", texts)
    out = prepared(source, tmp_path / "out", scrub_pii=True, val_fraction=0)
    found = documents_of(out.dataset(BYTES).train)[3]
    assert found == sentences(3) + "Ask <EMAIL>,\nor call <PHONE>."
    places = [json.loads(line) for line in (tmp_path / "out/personal.jsonl").open()]
    name = f"{source} line 4"
    assert places == [
        {"document": name, "kind": "email", "line": 13, "column": 5},
        {"document": name, "kind": "phone", "line": 14, "column": 9},
    ]
    assert out.content["personal data"] | {"email": 1, "phone": 1} == out.content["personal data"]
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"jo@example" not in everything


def mixture(tmp_path, weights) -> None:
    tables = [
        f'[{name}]\npaths = ["{name}.jsonl"]\nweight = {weight}\n'
        for name, weight in weights.items()
    ]
    (tmp_path / "mix.toml").write_text("\n".join(tables), encoding="utf-8")


def test_a_mixture_reads_each_source_as_often_as_its_weight_asks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few, many = [sentences(i) for i in range(60)], [sentences(100 + i) for i in range(180)]
    records(tmp_path / "few.jsonl", few)
    records(tmp_path / "many.jsonl", many)
    mixture(tmp_path, {"few": 1.5, "many": 0.5})
    words = ["--tokenizer", "byte", "--workers", 1, "--val-fraction", 0.1]
    assert minillm("data", "prepare", "--mix", "mix.toml", "--out", "out", *words) == 0
    said = capsys.readouterr().err
    passes = float(re.search(r"mixture: few is read (\S+) times in a pass", said)[1])
    assert passes == pytest.approx(3, abs=0.2)
    data = Prepared.open("out").dataset(BYTES)
    train, val = documents_of(data.train), documents_of(data.val)
    counts = {text: train.count(text) for text in few + many}
    assert len(val) == len(set(val)) and not set(val) & set(train)
    assert set(val) | {t for t in few if counts[t]} >= set(few)  # every text of few is somewhere
    assert {counts[t] for t in few if t not in val} <= {int(passes), int(passes) + 1}
    assert {counts[t] for t in many if t not in val} == {0, 1}
    share = sum(len(t) for t in train if t in few) / sum(map(len, train))
    assert share == pytest.approx(0.75, abs=0.04)
    total = sum(len(t) for t in few + many if t not in val)
    assert sum(map(len, train)) == pytest.approx(total, rel=0.05)


def test_topics_of_one_file_are_sources(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts = {n: sentences(n) for n in range(120)}
    rows = [{"topic": "ab"[n % 3 > 0], "text": text} for n, text in texts.items()]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    tables = [
        f"[{name}]\npaths = 'all.jsonl'\nweight = {weight}\nwhere = {{ topic = '{name}' }}\n"
        for name, weight in (("a", 2), ("b", 1))
    ]
    (tmp_path / "mix.toml").write_text("".join(tables), encoding="utf-8")
    words = ["--tokenizer", "byte", "--workers", 1, "--val-fraction", 0.1]
    assert minillm("data", "prepare", "--mix", "mix.toml", "--out", "out", *words) == 0
    data = Prepared.open("out").dataset(BYTES)
    train = documents_of(data.train)
    assert {*train, *documents_of(data.val)} <= {*texts.values()}
    of_a = {text for n, text in texts.items() if n % 3 == 0}
    share = sum(len(t) for t in train if t in of_a) / sum(map(len, train))
    assert share == pytest.approx(2 / 3, abs=0.04)


def test_a_source_of_few_documents_that_misses_its_share_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    records(tmp_path / "few.jsonl", [sentences(1, count=400), sentences(2, count=400)])
    records(tmp_path / "many.jsonl", [sentences(100 + i) for i in range(180)])
    mixture(tmp_path, {"few": 0.2, "many": 0.8})
    words = ["--tokenizer", "byte", "--workers", 1, "--val-fraction", 0.1]
    assert minillm("data", "prepare", "--mix", "mix.toml", "--out", "out", *words) == 0
    said = capsys.readouterr().err
    data = Prepared.open("out")
    texts = documents_of(data.dataset(BYTES).train)
    few = sum(len(text) + 1 for text in texts if len(text) > 2000)
    share = few / sum(len(text) + 1 for text in texts)
    assert data.content["mixture"][0]["share"] == pytest.approx(share, abs=1e-4)
    assert abs(share - 0.2) > 0.02  # the documents, drawn whole, are too long to meet it
    assert f"{share:.1%} of the tokens (20.0% asked: its documents are too few or too long)" in said


@pytest.mark.parametrize(
    "toml, said",
    [
        ("[a", "mix.toml is not valid TOML"),
        ("[a]\npaths='a.jsonl'\nweight=1", "has 1 sources, at least 2 are needed"),
        (
            "[a]\npaths='a.jsonl'\nweight=0\n[b]\npaths='b'\nweight=1",
            "weight of [a] is 0, a number",
        ),
        ("[a]\npath='a.jsonl'\n[b]\npaths='b'", "[a] has an unknown key 'path'"),
        ("[a]\nweight=1\n[b]\npaths='b'", "paths of [a] is None"),
        ("[a]\npaths='a.jsonl'\nweight=1\n[b]\npaths='a.jsonl'\nweight=1", "is in two sources"),
        ("a=1\nb=2", "a is no table"),
        (
            "[a]\npaths='a.jsonl'\nweight=1\nwhere={t=1}\n[b]\npaths='b'\nweight=1",
            "where of [a] is {'t': 1}, one field and a text",
        ),
        (
            "[a]\npaths='a.jsonl'\nweight=1\nwhere={t='x'}\n[b]\npaths='a.jsonl'\nweight=1",
            "is in two sources",
        ),
        (
            "[a]\npaths='a.jsonl'\nweight=1\nwhere={t='x'}\n"
            "[b]\npaths='a.jsonl'\nweight=1\nwhere={u='x'}",
            "is in two sources",
        ),
    ],
)
def test_a_bad_mixture_is_one_line(tmp_path, monkeypatch, capsys, toml, said):
    monkeypatch.chdir(tmp_path)
    records(tmp_path / "a.jsonl", [sentences(i) for i in range(30)])
    (tmp_path / "mix.toml").write_text(toml, encoding="utf-8")
    assert minillm("data", "prepare", "--mix", "mix.toml", "--out", "out") == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["a.jsonl", "--min-quality", "2"], "min-quality: 2.0, 0 to 1 is needed"),
        (["a.jsonl", "--workers", "0"], "workers: 0, 1 or more is needed"),
        (["a.jsonl", "--dedup", "fuzzy"], "dedup: 'fuzzy', one of none, exact, near is needed"),
        (["a.jsonl", "--shard-tokens", "0"], "shard-tokens: 0, 1 or more is needed"),
        (
            ["a.jsonl", "--tokenizer", "nowhere"],
            "tokenizer: 'nowhere', one of byte, char, bpe, the",
        ),
        (["a.jsonl", "--tokenizer", "bytes"], "tokenizer: 'bytes'; did you mean byte?"),
        (["nowhere.txt"], "read: nowhere.txt"),
        ([], "prepare: no file given"),
        (["a.jsonl", "--text-field", "body"], "line 1 has no field 'body' but 'text'"),
        (["a.jsonl", "--min-quality", "1"], "prepare: no text is left (0 empty, 30 low quality"),
        (["blank.txt", "--text-field", "body"], "text-field: 'body', but blank.txt is text"),
        (["a.jsonl", "--mix", "m.toml"], "mix: files given beside it"),
        (["blank.txt"], "prepare: no text"),
    ],
)
def test_what_cannot_be_prepared_is_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    records(tmp_path / "a.jsonl", ["few words"] * 30)
    (tmp_path / "blank.txt").write_text("", encoding="utf-8")
    assert minillm("data", "prepare", "--workers", 1, *words, "--out", "out") == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_a_refused_command_can_be_given_rightly_into_the_same_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{n},{' '.join(sentences(n).split())}\n" for n in range(30))
    (tmp_path / "a.csv").write_text("id,review\n" + rows, encoding="utf-8")
    words = ("data", "prepare", "a.csv", "--tokenizer", "byte", "--workers", 1, "--out", "out")
    assert minillm(*words) == 2
    assert "has no column 'text' but 'id', 'review'" in capsys.readouterr().err
    assert minillm(*words, "--text-field", "review") == 0


def test_bad_rows_are_skipped_and_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = records(tmp_path / "a.jsonl", [sentences(i) for i in range(25)]).read_text()
    (tmp_path / "a.jsonl").write_text('{"text": 3}\n' + good + "not json\n", encoding="utf-8")
    words = ["data", "prepare", "a.jsonl", "--out", "out", "--workers", 1, "--tokenizer", "byte"]
    assert minillm(*words) == 2
    assert "a.jsonl line 1: field 'text' is a number" in capsys.readouterr().err
    assert minillm(*words, "--on-bad", "skip") == 0  # no part was done
    assert "read: bad rows skipped: 2\n" in capsys.readouterr().err


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, capsys):
    """As if the disk had no more room from the second file on, then as if it had again."""
    monkeypatch.chdir(tmp_path)
    records(tmp_path / "a.jsonl", [sentences(i) for i in range(30)])
    words = ["data", "prepare", "a.jsonl", "--workers", 1, "--tokenizer", "byte", "--out"]
    fsync, left = os.fsync, 3

    def full(descriptor):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert minillm(*words, "out") == 2
    err = capsys.readouterr().err
    assert err.endswith("what was done is kept in out, the same command goes on\n")
    assert "prepare: no space left on device, more room is needed" in err
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert minillm(*words, "out") == 0
    assert minillm(*words, "straight") == 0
    for path in (tmp_path / "straight").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_standard_input_and_packed_files_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = records(tmp_path / "a.jsonl", [sentences(i) for i in range(30)]).read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    words = ["--workers", 1, "--tokenizer", "byte"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert minillm("data", "prepare", "-", "--out", "stdin", *words) == 0
    assert minillm("data", "prepare", "b.jsonl.gz", "--out", "packed", *words) == 0
    for name in ("train-00000.bin", "val-00000.bin"):
        assert (tmp_path / "stdin" / name).read_bytes() == (tmp_path / "packed" / name).read_bytes()

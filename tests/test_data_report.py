"""`minillm data report`: what is counted is what is there."""

import codecs
import gzip
import json
import signal
import sys
from collections import Counter
from functools import partial

import pytest

from minillm.data.guessing import guess_encoding
from minillm.data.preparation import sections
from minillm.data.preparation.pool import in_order
from small_runs import minillm
from small_texts import records, sentences

ENGLISH = "It is not that he did not want to be there, but the road was long and it was late.\n"
GERMAN = "Das ist nicht der Weg, den ich mit dir gehen will, und das Haus ist auch zu.\n"


def report(capsys, *words):
    assert minillm("data", "report", *words, "--json", "--workers", 1) == 0
    return json.loads(capsys.readouterr().out)


def test_figures_are_those_of_a_plain_count(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sections, "PART_CHARACTERS", 3000)
    texts = [sentences(i, 1 + i % 9) for i in range(60)] + [ENGLISH * 30, GERMAN * 10]
    texts += [texts[5], texts[5], texts[40], "mail jo@example.org or tom@example.org \x07\x00"]
    found = report(capsys, records(tmp_path / "a.jsonl", texts))
    lines = Counter(line.strip() for text in texts for line in text.split("\n") if line.strip())
    assert found["documents"] == len(texts)
    kept = sum(len(text.translate({7: None, 0: None})) for text in texts)
    assert found["characters"] == kept - len("jo@example.org" + "tom@example.org") + 14
    assert found["lengths"]["longest"] == 30 * len(ENGLISH)
    assert sum(bar["documents"] for bar in found["lengths"]["histogram"]) == len(texts)
    for bar in found["lengths"]["histogram"]:
        within = [n for n in map(len, texts[:-1]) if bar["up to"] // 2 < n <= bar["up to"]]
        assert abs(bar["documents"] - len(within)) <= 1  # the last one lost characters
    assert found["languages"]["English"] == 30 * len(ENGLISH)
    assert found["languages"]["German"] == 10 * len(GERMAN)
    assert found["duplicates"]["exact"] == {
        "texts": 3, "characters": 2 * len(texts[5]) + len(texts[40]),
    }  # fmt: skip
    assert found["personal data"]["email"] == 2
    assert found["characters and lines"]["control characters"] == 2
    frequent = {line["line"]: line["times"] for line in found["frequent lines"]}
    assert frequent[ENGLISH.strip()] == 30
    assert frequent == {line[:120]: n for line, n in lines.most_common(len(frequent))}


def test_secrets_are_not_in_the_report(tmp_path, capsys):
    source = records(tmp_path / "a.jsonl", ["ask jo@example.org\n" * 4] * 3)
    text = json.dumps(report(capsys, source))
    assert "jo@" not in text and "ask <EMAIL>" in text


@pytest.mark.parametrize(
    "data, encoding, why",
    [
        (b"plain", "utf-8", ""),
        ("été 🙂".encode(), "utf-8", ""),
        (b"", "utf-8", ""),
        (codecs.BOM_UTF8 + b"a", "utf-8", "by its byte order mark"),
        ("été là".encode("utf-16"), "utf-16", "by its byte order mark"),
        ("some text".encode("utf-16-le"), "utf-16-le", "zero bytes, a guess"),
        ("some text".encode("utf-16-be"), "utf-16-be", "zero bytes, a guess"),
        (b"caf\xe9 bar", "cp1252", "byte 0xE9 at offset 3 is not UTF-8; a guess"),
        (b"caf\xe9 \x81bar", "latin-1", "byte 0xE9 at offset 3 is not UTF-8; a guess"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_encodings_are_found_out(data, encoding, why, size):
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert guess_encoding(chunks) == (encoding, why)


def test_files_of_several_encodings_are_read_each_in_its_own(tmp_path, capsys):
    text = "Der Weg ist nicht weit, und das Café ist für alle da, die müde sind.\n" * 5
    for name, encoding in (("a", "utf-8"), ("b", "cp1252"), ("c", "utf-16")):
        (tmp_path / f"{name}.txt").write_bytes(text.encode(encoding))
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(text.encode()))
    found = report(capsys, tmp_path)
    assert [of["encoding"] for of in found["files"]] == ["utf-8", "cp1252", "utf-16", "utf-8"]
    assert found["languages"] == {"German": 4 * len(text)}
    assert found["duplicates"]["exact"]["texts"] == 3


def test_lines_and_page_say_the_same(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records(tmp_path / "a.jsonl", [ENGLISH * 5 + "<b>bold</b>\n" * 3, '"x"', ENGLISH * 5])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("no record\n")
    words = ["data", "report", "a.jsonl", "--workers", 1, "--on-bad", "skip"]
    assert minillm(*words) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 file, 3 documents, ")
    assert "a.jsonl: 1 bad row, the first: a.jsonl line 4 is not JSON" in out
    assert minillm(*words, "--html", "page.html") == 0
    assert capsys.readouterr().err.endswith("wrote page.html\n")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;bold&lt;/b&gt;" in page and "<b>bold" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    before = (tmp_path / "a.jsonl").read_bytes()
    assert minillm(*words, "--html", "./a.jsonl") == 2
    assert "html: ./a.jsonl is one of the texts, another" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_bytes() == before
    assert minillm(*words[:3], "--workers", 1) == 2
    assert "a.jsonl line 4 is not JSON" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no signal masks on Windows")
def test_workers_never_see_ctrl_c_and_the_parent_does():
    blocked = partial(signal.pthread_sigmask, signal.SIG_BLOCK)
    assert all(signal.SIGINT in mask for mask in in_order(blocked, [(), ()], 2))
    assert signal.SIGINT not in blocked(())

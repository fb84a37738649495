"""Rows of tables as documents, packed files, and rows that are none."""

import csv
import io

import pytest

from minillm.data import read

ROWS = ["plain", "with, comma", 'a "quote"', "two\nlines", "", "été 日本語"]


def written(path, content):
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.write_bytes(data)
    return path


def texts(path, **options):
    return ["".join(d.pieces()) for d in read(path, **options).documents()]


def csv_of(rows) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(rows))
    return out.getvalue()


def test_csv_rows_are_documents(tmp_path):
    path = written(tmp_path / "a.csv", csv_of(ROWS))
    assert texts(path) == [row for row in ROWS if row]
    corpus = read(path)
    assert f"read as CSV: {path}" in corpus.facts.lines_for_people()
    assert [d.name for d in corpus.documents()][:2] == [f"{path} line 2", f"{path} line 3"]
    assert corpus.facts.empty_documents == 1


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path):
    assert texts(written(tmp_path / "a.csv", "\ufefftext\r\na b\r\n")) == ["a b"]


def test_tsv_has_no_quotes(tmp_path):
    path = written(tmp_path / "a.tsv", 'id\ttext\n1\tsay "hi\n2\t"x" y\n')
    assert texts(path) == ['say "hi', '"x" y']


def test_a_number_names_a_column_of_a_file_without_names(tmp_path):
    path = written(tmp_path / "a.tsv", "card\thello there\nage\thow old\n")
    assert texts(path, text_field="2") == ["hello there", "how old"]


@pytest.mark.parametrize(
    "name, good, bad, said",
    [
        ("a.csv", "id,text\n7,fine\n", "2\n", "line 3 has 1 fields, 2 are needed"),
        ("a.csv", "id,text\n7,fine\n", "1,x,y\n", "line 3 has 3 fields, 2 are needed"),
        ("a.csv", "id,text\n7,fine\n", '1,"x"y\n', "line 3 is not CSV"),
        ("a.csv", "id,text\n7,fine\n", '1,"x\n', "is not CSV (unexpected end of data)"),
        ("a.tsv", "id\ttext\n7\tfine\n", "1 x\n", "line 3 has 1 fields, 2 are needed"),
        ("a.jsonl", '{"text": "fine"}\n', '{"b": 1}\n', "line 2 has no field 'text' but 'b'"),
        ("a.jsonl", '{"text": "fine"}\n', '{"text"\n', "line 2 is not JSON"),
    ],
)
def test_a_bad_row_stops_or_is_counted(tmp_path, name, good, bad, said):
    path = written(tmp_path / name, good + bad)
    with pytest.raises(ValueError, match="read: ") as caught:
        read(path)
    assert said in str(caught.value)
    corpus = read(path, on_bad="skip")
    assert (corpus.facts.bad_rows, corpus.facts.documents) == (1, 1)
    told = [line for line in corpus.facts.lines_for_people() if line.startswith("skipped 1 bad")]
    assert said in told[0]
    assert texts(path, on_bad="skip") == ["fine"]


def test_a_missing_column_stops_always(tmp_path):
    path = written(tmp_path / "a.csv", "id,body\n1,x\n")
    with pytest.raises(ValueError, match="no column 'text' but 'id', 'body', a text is needed"):
        read(path, on_bad="skip")


def test_zstandard_in_several_frames(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.ZstdCompressor().compress
    first, second = "one text\n" * 5000, "another\n" * 3
    path = written(tmp_path / "a.txt.zst", packed(first.encode()) + packed(second.encode()))
    assert texts(path) == [first + second]
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    with pytest.raises(ValueError, match=r"a.txt.zst is damaged Zstandard \(it ends within"):
        read(path)
    path.write_bytes(data[:8] + b"\xff" * 20 + data[28:])
    with pytest.raises(ValueError, match=r"a.txt.zst is damaged Zstandard"):
        read(path)
    path.write_bytes(b"plain")
    with pytest.raises(ValueError, match=r"is not Zstandard, a file that begins with 0x28 0xB5"):
        read(path)


def test_parquet_rows_are_documents(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"id": range(7), "text": [*ROWS, None]}), path)
    with pytest.raises(ValueError, match=r"a.parquet row 7 is null, a string is needed"):
        read(path)
    assert texts(path, on_bad="skip") == [row for row in ROWS if row]
    assert read(path, on_bad="skip").facts.bytes == path.stat().st_size
    with pytest.raises(ValueError, match="column 'id' is int64, strings are needed"):
        read(path, text_field="id")
    with pytest.raises(ValueError, match="has no column 'body' but 'id', 'text'"):
        read(path, text_field="body")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a.parquet is damaged Parquet"):
        read(path)


@pytest.mark.parametrize("module, name", [("zstandard", "a.txt.zst"), ("pyarrow", "a.parquet")])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, module, name):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    path = written(tmp_path / name, b"\x28\xb5\x2f\xfd rest" if "zst" in name else b"PAR1")
    with pytest.raises(ImportError, match=r"needs the extra data; pip install 'minillm\[data\]'"):
        read(path)

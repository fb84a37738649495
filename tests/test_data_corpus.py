"""What a corpus holds, and what one reading of it finds out."""

import gzip
import json
import os
import re
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data import read
from minillm.data.facts import Scan
from minillm.data.lines import SeenLines, lines_of
from minillm.data.sources import Sources
from minillm.data.text import Repairs


def text_of(corpus) -> list[str]:
    return ["".join(document.pieces()) for document in corpus.documents()]


def written(path, content: str | bytes):
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def naive_facts(texts: list[str]) -> dict[str, object]:
    """The same account by the plainest means: everything in memory, a set of lines."""
    lines = [line for text in texts if text for line in text.removesuffix("\n").split("\n")]
    seen, repeated = set(), 0
    for line in lines:
        if len(re.sub(r"\s", "", line)) >= 10:
            repeated += len(line) if line in seen else 0
            seen.add(line)
    return {
        "characters": sum(map(len, texts)),
        "character_counts": Counter("".join(texts)),
        "documents": sum(map(bool, texts)),
        "empty_documents": sum(not text for text in texts),
        "lines": len(lines),
        "longest_line": max(map(len, lines), default=0),
        "duplicate_share": repeated / max(1, sum(map(len, lines))),
    }


line = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "the same line again",
            "a b c d e f g h i",
            "a b c d e f g h i j",
            "\u3000\xa0日本語の長い行です。。",
            "🙂" * 11,
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=15),
)
texts = st.lists(
    st.builds(
        lambda lines, end: "\n".join(lines) + end,
        st.lists(line, max_size=12),
        st.sampled_from(["", "\n"]),
    ),
    max_size=5,
)


@given(texts, st.integers(1, 9))
def test_facts_equal_those_of_a_plain_count(texts, size):
    scan = Scan()
    scan.take((text[at : at + size] for at in range(0, len(text), size)) for text in texts)
    facts = scan.facts(Sources(), Repairs(), encoding="utf-8", size=0)
    assert {name: getattr(facts, name) for name in naive_facts(texts)} == naive_facts(texts)


def test_facts_of_a_real_text(shared_data):
    path = shared_data / "text" / "tinyshakespeare.txt"
    text = path.read_text(encoding="utf-8")
    facts = read(path).facts
    expected = naive_facts([text])
    assert {name: getattr(facts, name) for name in expected} == expected
    assert (facts.distinct_characters, facts.lines) == (65, 40_000)


def test_lines_longer_than_any_piece_are_recognised():
    long = "".join(f"word{i} " for i in range(20_000))
    pieces = (long, "\nx" + long[1:], "\n", long, "\n" + long[:-1], "y")
    lines = list(lines_of([pieces]))
    hashes = np.concatenate([found.hashes for found in lines]).tolist()
    assert sum(len(found.hashes) == 0 for found in lines) > 10
    assert len(hashes) == 4
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[2]


def test_lines_that_differ_by_order_length_or_zeros_have_different_hashes():
    lines = ["ab", "ba", "a", "", "\0", "\0\0", "a\0", "\0a", "aa", "aaa"]
    (found,) = lines_of([["\n".join(lines[:4]), "\n"], ["\n".join(lines[4:])]])
    assert len(set(found.hashes.tolist())) == len(lines)
    assert found.lengths.tolist() == list(map(len, lines))


def test_remembered_lines_are_bounded_and_the_first_ones_stay():
    seen = SeenLines(limit=3)

    def add(*numbers):
        return seen.add(np.array(numbers, np.uint64)).tolist()

    assert add(9, 9, 5) == [False, True, False]
    assert not seen.full
    assert add(7, 1, 1, 9) == [False, False, True, True]
    assert seen.full
    assert add(1, 5, 7) == [False, True, True]


def test_json_lines_hold_a_document_each(tmp_path):
    path = written(
        tmp_path / "a.jsonl",
        '{"text":"one","id":1}\r\n\n   \n"two\\r\\nlines"\n{"text":""}\n{"text":"x\\u2028y"}',
    )
    corpus = read(path)
    assert text_of(corpus) == ["one", "two\nlines", "x\u2028y"]
    assert [document.name for document in corpus.documents()] == [
        f"{path} line {number}" for number in (1, 4, 6)
    ]
    facts = corpus.facts
    assert (facts.documents, facts.empty_documents, facts.newlines) == (3, 1, 1)
    assert "normalised 1 line end" in facts.lines_for_people()
    assert text_of(read(path, keep_newlines=True))[1] == "two\r\nlines"


def test_a_leading_mark_costs_json_lines_no_record(tmp_path):
    path = written(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text":"a"}\n{"text":"b"}\n')
    corpus = read(path)
    assert text_of(corpus) == ["a", "b"]
    assert corpus.facts.boms == 1
    plain = written(tmp_path / "a.txt", b"\xef\xbb\xbfabc\n")
    assert text_of(read(plain)) == ["abc\n"]


def test_another_field_and_encoding_can_be_named(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"body":"é","text":1}\n'.encode("utf-16"))
    assert text_of(
        read(
            [path, written(tmp_path / "b.txt", "xy".encode("utf-16"))],
            encoding="utf-16",
            text_field="body",
        )
    ) == ["é", "xy"]


@pytest.mark.parametrize(
    "content, found",
    [
        ('{"text":"a"}\n{"text":3}\n', "line 2: field 'text' is a number, a string is needed"),
        ('{"text":null}', "line 1: field 'text' is null"),
        (
            '\n\n{"content":"a","id":2}',
            "line 3 has no field 'text' but 'content', 'id', a text is "
            "needed; name the field with --text-field",
        ),
        ("{}", "line 1 has no field 'text' but no fields"),
        ("[1]", "line 1 is a list, an object with a field 'text' or a string is needed"),
        ("true", "line 1 is true or false"),
        ('{"text":"a"} {"text":"b"}', "line 1 is not JSON (Extra data at column 14)"),
        ('"ab\n', "line 1 is not JSON (Unterminated string"),
        ("[" * 100_000, "line 1 is nested too deeply"),
        ("9" * 5000, "line 1 cannot be read ("),
        ('"\\ud83d\\ude42 \\ud83d"', "line 1: U+D83D at character 2 is half a surrogate pair"),
        ('"a"\n"caf\udce9"', "line 2, byte offset 8: 0xE9 is not utf-8"),
    ],
)
def test_what_is_no_record_is_named_with_its_line(tmp_path, content, found):
    path = written(tmp_path / "a.jsonl", content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError) as caught:
        read(path)
    assert str(caught.value).startswith(f"read: {path} {found}")
    assert "\n" not in str(caught.value)


def test_half_pairs_and_bad_bytes_are_replaced_and_counted(tmp_path):
    path = written(tmp_path / "a.jsonl", b'"\\ud83d\\ude42 \\ud83d!"\n"caf\xe9"\n')
    corpus = read(path, errors="replace")
    assert text_of(corpus) == ["🙂 \ufffd!", "caf\ufffd"]
    assert corpus.facts.replacements == 2
    assert "replaced 2 undecodable sequences by U+FFFD" in corpus.facts.lines_for_people()


def test_a_record_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("minillm.data.records.RECORD_LIMIT", 1 << 20)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress((b'"' + b"a" * (700 << 10) + b'"\n') * 3))
    assert read(path).facts.documents == 3
    path.write_bytes(gzip.compress(b'"ok"\n"' + b"a" * (1 << 23)))
    with pytest.raises(ValueError, match="line 2 is longer than 1,048,576 characters"):
        read(path)


def test_facts_are_said_once_each(tmp_path):
    written(tmp_path / "a.txt", b"\xef\xbb\xbfa\r\nb\rc")
    written(tmp_path / "b.txt", "")
    written(tmp_path / ".c.txt", "")
    assert read(tmp_path).facts.lines_for_people() == [
        "2 files, 9 bytes of utf-8: 1 document, 3 lines, 5 characters (4 distinct)",
        "removed 1 byte order mark",
        "normalised 2 line ends",
        "left out 1 empty document",
        "passed over 1 hidden path",
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b'"more text"'),
        lambda path: path.write_bytes(b"some texts and more"),
        lambda path: path.write_bytes(b"some\xe9text"),
        lambda path: path.write_bytes(b"some\0text"),
        os.unlink,
    ],
)
@pytest.mark.parametrize("kind", ["a.txt", "a.jsonl"])
def test_a_file_that_changes_between_readings_is_noticed(tmp_path, change, kind):
    path = written(tmp_path / kind, '"some text"')
    corpus = read(path)
    assert len(text_of(corpus)) == 1
    change(path)
    with pytest.raises(RuntimeError, match=r"^read: \S+ changed while it was in use"):
        text_of(corpus)


def test_documents_can_be_read_again_and_in_any_order(tmp_path):
    paths = [written(tmp_path / name, name * 3) for name in ("a.txt", "b.txt")]
    documents = list(read(paths).documents())
    assert [next(document.pieces()) for document in reversed(documents)] == [
        "b.txt" * 3,
        "a.txt" * 3,
    ]
    assert "".join(documents[0].pieces()) == "".join(documents[0].pieces()) == "a.txt" * 3


def peak_of(act) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def drained(corpus) -> int:
    return sum(len(piece) for document in corpus.documents() for piece in document.pieces())


@pytest.mark.parametrize("name", ["a.txt", "bomb.txt.gz"])
def test_memory_does_not_grow_with_one_endless_line(tmp_path, name):
    size = 6 << 20
    data = b"ab" * (size // 2)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    read(written(tmp_path / "warm.txt", "warm up"))
    assert peak_of(lambda: drained(read(path))) < 2 << 20
    facts = read(path).facts
    assert (facts.characters, facts.longest_line, facts.lines) == (size, size, 1)


def test_memory_of_a_giant_record_is_a_small_multiple_of_it(tmp_path):
    size = 4 << 20
    path = written(tmp_path / "a.jsonl", json.dumps({"text": "ab" * (size // 2)}) + "\n")
    assert peak_of(lambda: drained(read(path))) < 3 * size + (2 << 20)

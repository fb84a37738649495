"""Bytes to text: whatever the chunks, the text is what decoding the whole gives."""

import codecs
import io
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minillm.data.text import Decoding, Repairs, decode

ENCODINGS = [
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-be",
    "utf-32",
    "latin-1",
    "cp1252",
    "shift_jis",
    "gb18030",
    "euc_kr",
    "iso2022_jp",
]

texts = st.lists(
    st.one_of(
        st.sampled_from(["a", "\r\n", "\r", "\n", "é", "\ufeff", "日本語", "🙂", "\u2028", "\x85"]),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=40,
).map("".join)


def cut_up(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def decoded(chunks, encoding="utf-8", errors="strict", keep_newlines=False):
    repairs = Repairs()
    decoding = Decoding(encoding, errors, keep_newlines)
    return "".join(decode(chunks, decoding, "a.txt", repairs)), repairs


@given(texts, st.sampled_from(ENCODINGS), st.integers(1, 9), st.booleans())
@example("\r\n" * 9, "utf-8", 1, False)
@example("\ufeff\ufeffa", "utf-8", 2, False)
def test_any_chunking_gives_the_text_decoded_whole(text, encoding, size, keep):
    data = text.encode(encoding, "ignore")
    got, repairs = decoded(cut_up(data, size), encoding, keep_newlines=keep)
    whole = data.decode(encoding)
    if encoding not in ("utf-8-sig", "utf-16", "utf-32"):
        whole = whole.removeprefix("\ufeff")
    universal = io.TextIOWrapper(io.BytesIO(whole.encode("utf-8")), encoding="utf-8").read()
    assert got == (whole if keep else universal)
    assert repairs.newlines == (0 if keep else len(re.findall("\r\n|\r", whole)))
    assert repairs.replacements == 0


@given(
    st.lists(
        st.sampled_from(
            [
                b"a",
                b"\n",
                b"\r",
                b"\xc3\xa9",
                b"\xe9",
                b"\xf0\x9f\x99\x82",
                b"\xf0\x9f",
                b"\xff",
                b"\xed\xa0\x80",
                b"\xef\xbf\xbd",
            ]
        ),
        max_size=12,
    ),
    st.integers(1, 9),
)
def test_errors_are_found_where_decoding_the_whole_finds_them(parts, size):
    data = b"ok" + b"".join(parts)
    chunks = cut_up(data, size)
    replaced, repairs = decoded(chunks, errors="replace", keep_newlines=True)
    assert replaced == data.decode("utf-8", "replace")
    assert repairs.replacements == replaced.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as truth:
        before = io.StringIO(data[: truth.start].decode("utf-8") + "x", newline=None)
        line = len(before.readlines())
        with pytest.raises(
            ValueError,
            match=rf"^read: a\.txt line {line}, byte offset "
            rf"{truth.start}: 0x{data[truth.start]:02X} is not utf-8 \(",
        ):
            decoded(chunks)
    else:
        assert decoded(chunks, keep_newlines=True)[0] == data.decode("utf-8")


@pytest.mark.parametrize("encoding", ["utf-16-le", "shift_jis", "gb18030", "euc_kr"])
def test_error_offset_in_encodings_of_several_bytes(encoding):
    start = "行一\n二\n".encode(encoding, "ignore")
    bad = b"\x00\xdc" if encoding == "utf-16-le" else b"\xff"
    for cut in range(len(start) + 1):
        data = start + bad + b"a\n"
        with pytest.raises(ValueError, match=f"line 3, byte offset {len(start)}: 0x{bad[0]:02X} "):
            decoded([data[:cut], data[cut:]], encoding)


def test_one_leading_mark_is_framing_and_any_other_is_text():
    assert decoded([b"\xef\xbb\xbfabc\n"]) == ("abc\n", Repairs(boms=1))
    assert decoded([b"\xef", b"\xbb", b"\xbf", b"a\xef\xbb\xbfb"]) == ("a\ufeffb", Repairs(boms=1))
    twice = codecs.BOM_UTF8 * 2
    for encoding in ("utf-8", "utf-8-sig"):
        assert decoded([twice], encoding) == ("\ufeff", Repairs(boms=1))
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"):
        mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"
        assert decoded([(mark + "ab").encode(encoding)], encoding) == ("ab", Repairs(boms=1))


@pytest.mark.parametrize(
    "data, encoding, advice",
    [
        (
            "ab".encode("utf-16"),
            "utf-8",
            "begins with the byte order mark of utf-16-le, .* utf-16$",
        ),
        (b"\xfe\xff\0a", "latin-1", "mark of utf-16-be, text in iso8859-1 is needed; .* utf-16$"),
        (b"\xfe\xff\0a", "utf-16-le", "mark of utf-16-be, text in utf-16-le is needed"),
        ("ab".encode("utf-32"), "utf-8", "mark of utf-32-le, .* pass --encoding utf-32$"),
        ("ab".encode("utf-8-sig"), "cp1252", "mark of utf-8, .* pass --encoding utf-8$"),
        ("ab".encode("utf-16-le"), "utf-16", "no byte order mark, .* utf-16-le or utf-16-be$"),
    ],
)
def test_a_mark_that_contradicts_the_encoding_is_refused(data, encoding, advice):
    for size in (1, 2, 100):
        with pytest.raises(ValueError, match=advice):
            decoded([data[at : at + size] for at in range(0, len(data), size)], encoding)


def test_line_ends_are_normalised_or_kept():
    assert decoded([b"a\r\nb\rc"]) == ("a\nb\nc", Repairs(newlines=2))
    assert decoded([b"five\r", b"\nb\r", b"\r\n"]) == ("five\nb\n\n", Repairs(newlines=3))
    assert decoded([b"a\r", b"\nb\rc"], keep_newlines=True) == ("a\r\nb\rc", Repairs())


def test_legacy_bytes_are_an_error_until_an_encoding_is_chosen():
    with pytest.raises(ValueError) as caught:
        decoded([b"caf\xe9"])
    assert str(caught.value) == (
        "read: a.txt line 1, byte offset 3: 0xE9 is not utf-8 (unexpected end of data), text in "
        "utf-8 is needed; name the encoding with --encoding (such as latin-1) or pass --errors "
        "replace"
    )
    assert decoded([b"caf\xe9"], errors="replace") == ("caf\ufffd", Repairs(replacements=1))
    assert decoded([b"caf\xe9"], "latin-1")[0] == "café"


@pytest.mark.parametrize(
    "encoding",
    ["no-such", "rot13", "hex", "", "a\0b", "utf-7", "undefined", "unicode_escape", "idna"],
)
def test_what_is_no_encoding_of_files_is_refused(encoding):
    with pytest.raises(ValueError, match=r"^read: .* encoding.* is needed$"):
        Decoding(encoding)


def test_unknown_error_rule_is_refused():
    with pytest.raises(ValueError, match="errors is 'ignore', 'strict' or 'replace' is needed"):
        Decoding(errors="ignore")

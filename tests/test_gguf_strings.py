"""Arrays of strings in GGUF files: split at once where that is safe, else one after the other."""

import mmap
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.formats import gguf
from minillm.formats.gguf_strings import short_strings

SIMPLE = st.text(st.characters(blacklist_characters="\0", codec="utf-8"), min_size=1, max_size=60)
ANY = st.text(st.characters(codec="utf-8"), max_size=300)


def written(strings: list[str]) -> bytes:
    return b"".join(struct.pack("<Q", len(data)) + data for data in map(str.encode, strings))


def mapped(data: bytes) -> mmap.mmap:
    place = mmap.mmap(-1, len(data))
    place[:] = data
    return place


def read_file(folder, array: bytes, count: int):
    entries = struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", gguf.ARRAY, gguf.STRING, count)
    path = folder / "strings.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entries + array + bytes(64))
    return gguf.read(path)[0]["a"]


@settings(max_examples=200)
@given(st.lists(SIMPLE, min_size=1), st.binary(max_size=40), st.binary(max_size=300))
def test_short_strings_are_split_wherever_they_lie(strings, before, after):
    array = written(strings)
    data = mapped(before + array + after)
    end = len(before) + len(array)
    assert short_strings(data, len(before), len(strings)) == (strings, end)


@given(st.lists(SIMPLE, min_size=1), st.data())
def test_each_is_made_when_it_is_asked_for(strings, data):
    array = written(strings)
    found, _ = short_strings(mapped(array), 0, len(strings))
    assert len(found) == len(strings) and list(found) == found.tolist() == strings
    place = data.draw(st.integers(-len(strings), len(strings) - 1))
    assert found[place] == strings[place]
    part = slice(*data.draw(st.tuples(*[st.none() | st.integers(-9, 9)] * 2)))
    assert found[part] == strings[part]
    with pytest.raises(IndexError):
        found[len(strings)]
    assert repr(found) == repr(strings) and found != [*strings, "more"]


@settings(max_examples=200)
@given(st.lists(ANY | SIMPLE, min_size=1))
def test_any_strings_are_read_from_a_file(tmp_path_factory, strings):
    assert read_file(tmp_path_factory.getbasetemp(), written(strings), len(strings)) == strings


@pytest.mark.parametrize(
    "strings", [[""], ["a", ""], ["a\0", "b"], ["a", "b\0"], ["\0" * 7 + "b"], ["a" * 256, "b"]]
)
def test_others_are_left_to_be_read_one_by_one(tmp_path, strings):
    assert short_strings(mapped(written(strings)), 0, len(strings)) is None
    assert read_file(tmp_path, written(strings), len(strings)) == strings


@settings(max_examples=300)
@given(st.lists(SIMPLE, min_size=1, max_size=4), st.data())
def test_damage_gives_what_reading_one_by_one_gives(strings, data):
    array = bytearray(written(strings))
    place = data.draw(st.integers(0, len(array) - 1))
    array[place] = data.draw(st.sampled_from([0, 1, 2, 7, 8, 65, 255]))
    found = short_strings(mapped(bytes(array)), 0, len(strings))
    if found is not None:
        at, right = 0, []
        for _ in strings:
            (length,) = struct.unpack_from("<Q", array, at)
            right.append(array[at + 8 : at + 8 + length].decode())
            at += 8 + length
        assert found == (right, at) and at <= len(array)

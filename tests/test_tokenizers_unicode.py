"""The frozen character classes against `unicodedata` and Hugging Face's regular expressions."""

import itertools
import unicodedata

import pytest

from minillm.tokenizers.byte_alphabet import spell
from minillm.tokenizers.splitting import split
from minillm.tokenizers.unicode_classes import LETTERS, NUMBERS, WHITE_SPACE, ranges

POINTS = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]


def points_of(table):
    return {point for low, high in ranges(table) for point in range(low, high + 1)}


@pytest.mark.parametrize(("table", "letter"), [(LETTERS, "L"), (NUMBERS, "N")])
def test_classes_are_the_general_categories(table, letter):
    """Every character that this Python knows; later Pythons know some that Unicode 16.0 did not."""
    ours = points_of(table)
    categories = [unicodedata.category(chr(point)) for point in POINTS]
    theirs = {point for point, category in zip(POINTS, categories) if category[0] == letter}
    unknown = {point for point, category in zip(POINTS, categories) if category == "Cn"}
    if tuple(map(int, unicodedata.unidata_version.split("."))) <= (16, 0, 0):
        assert ours - unknown == theirs
    else:
        assert ours <= theirs


def test_tables_are_sorted_ranges_that_do_not_touch():
    for table in (LETTERS, NUMBERS):
        bounds = ranges(table)
        assert all(low <= high for low, high in bounds)
        assert all(high + 1 < low for (_, high), (low, _) in itertools.pairwise(bounds))


def test_white_space_is_what_separates_by_definition():
    """White_Space: the separators Z* and seven control characters."""
    assert set(WHITE_SPACE) == {
        chr(point)
        for point in POINTS
        if unicodedata.category(chr(point))[0] == "Z" or chr(point) in "\t\n\v\f\r\x85"
    }


def test_hugging_face_splits_at_the_same_classes():
    """The ends of every range and their neighbours, each after a letter, a number and a space."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = {point for low, high in ranges(LETTERS + NUMBERS) for point in (low, high)}
    beside = {point + step for point in ends for step in (-1, 1)}
    known = {point for point in beside if unicodedata.category(chr(point)) not in ("Cn", "Cs")}
    points = sorted(ends | known | set(map(ord, WHITE_SPACE)))
    for start in range(0, len(points), 32):
        text = "".join([f"a{chr(point)}1{chr(point)}  " for point in points[start : start + 32]])
        pieces = [piece for piece, _ in theirs.pre_tokenize_str(text)]
        assert [spell(piece.encode("utf-8")) for piece in split(text)] == pieces

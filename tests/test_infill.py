"""Rows in the order of filling in: nothing lost but what the marks displace, middles anywhere."""

from collections import Counter

import numpy as np
import pytest

from minillm.data.infill import ADDED, Infilling, Marks

MARKS, END = Marks(101, 102, 103), 100
ROW = np.arange(1, 21)


def undone(row, suffix_first):
    """The text of a filled row, and its middle, by the marks alone."""
    ids = row.tolist()
    prefix, suffix, middle = (ids.index(mark) for mark in MARKS)
    end = ids.index(END, middle)
    if suffix_first:
        assert suffix == prefix + 1
        return ids[middle + 1 : end] + ids[suffix + 1 : middle]
    return ids[prefix + 1 : suffix] + ids[middle + 1 : end] + ids[suffix + 1 : middle]


@pytest.mark.parametrize("suffix_first", [False, True])
def test_every_token_but_the_last_four_is_there_once(suffix_first):
    infilling = Infilling(MARKS, END, 0, 1.0, float(suffix_first))
    for number in range(200):
        out, middle = infilling(ROW, 0, number)
        assert len(out) == len(ROW)
        assert undone(out, suffix_first) == ROW[:-ADDED].tolist()
        assert out[middle][-1] == END
        inside = out[middle][:-1].tolist()
        assert inside == list(range(inside[0], inside[-1] + 1)) if inside else True


def test_borders_of_the_middle_are_uniform():
    """16 tokens have 17 places for each of two borders: chi-square over their lengths."""
    infilling, trials = Infilling(MARKS, END, 7, 1.0, 0.0), 8000
    found = Counter()
    for number in range(trials):
        _, middle = infilling(ROW, 0, number)
        found[middle.stop - middle.start - 1] += 1
    pairs = Counter(abs(a - b) for a in range(17) for b in range(17))
    expected = {length: trials * n / 289 for length, n in pairs.items()}
    chi = sum((found[length] - e) ** 2 / e for length, e in expected.items())
    assert chi < 39.3  # 16 degrees of freedom, 0.1 %


def test_rates_are_kept():
    infilling, trials = Infilling(MARKS, END, 0, 0.3, 0.25), 4000
    kinds = Counter()
    for number in range(trials):
        out, _ = infilling(ROW, 0, number)
        filled = MARKS.prefix in out
        first = filled and out[out.tolist().index(MARKS.prefix) + 1] == MARKS.suffix
        kinds["plain" if not filled else "suffix" if first else "prefix"] += 1
    rate = 0.3 * (0.25 + 0.75 * 1 / 17)  # a prefix may be empty: suffix behind prefix as well
    expected = {"plain": 0.7, "suffix": None, "prefix": None}
    assert abs(kinds["plain"] / trials - expected["plain"]) < 4 * np.sqrt(0.21 / trials)
    assert abs(kinds["suffix"] / trials - rate) < 0.04


def test_only_one_document_is_rearranged():
    row = np.array([1, 2, END, 3, 4, 5, 6, 7, 8, END, 9, 10, 11, 12, 13, 14])
    infilling = Infilling(MARKS, END, 0, 1.0, 0.0)
    for number in range(50):
        out, _ = infilling(row, 0, number)
        assert out[:3].tolist() == [1, 2, END]
        assert undone(out[3:], False) == [3, 4, 5, 6, 7, 8]
        rest = out[3 + 6 + ADDED :].tolist()
        assert rest == [9, 10, 11]


def test_a_row_is_a_function_of_seed_kind_and_number():
    one = Infilling(MARKS, END, 1, 1.0, 0.5)
    first = one(ROW, 0, 5)[0]
    assert np.array_equal(Infilling(MARKS, END, 1, 1.0, 0.5)(ROW, 0, 5)[0], first)
    others = [one(ROW, 0, 6), one(ROW, 1, 5), Infilling(MARKS, END, 2, 1.0, 0.5)(ROW, 0, 5)]
    assert any(not np.array_equal(other, first) for other, _ in others)


def test_a_row_of_end_tokens_stays():
    row = np.full(9, END)
    out, middle = Infilling(MARKS, END, 0, 1.0, 0.0)(row, 0, 0)
    assert np.array_equal(out, row)
    assert middle == slice(0, 0)

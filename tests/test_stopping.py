"""Stop strings: where a text ends, whatever pieces it comes in, and what is held back meanwhile."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.generation.stopping import StopText


def naive(stops, text):
    """The text before the stop string that is complete first, of those that end there the longest;
    and that stop string."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            found = max(ending, key=len)
            return text[: end - len(found)], found
    return text, None


def longest_beginning(stops, text):
    """The longest end of the text that is a beginning, not the whole, of a stop string."""
    ends = (text[start:] for start in range(len(text) + 1))
    return next(end for end in ends if any(stop.startswith(end) and stop != end for stop in stops))


def pieces_of(text, cuts):
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def shown(stops, pieces):
    stop = StopText(stops)
    return [*map(stop.push, pieces), stop.flush()], stop.found


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        (["beta"], ["al", "pha be", "ta ga", "mma"], ["al", "pha ", "", "", ""]),
        (["\nUser:"], ["Fine.\nUs"], ["Fine.", "\nUs"]),
        (["\nUser:"], ["Fine.\nUs", "ually"], ["Fine.", "\nUsually", ""]),
        (["ab", "abc"], ["xa", "bc"], ["x", "", ""]),
        (["abc", "ab"], ["xabc"], ["x", ""]),
        (["stop"], ["stop and go"], ["", ""]),
        (["b", "d"], ["abcd"], ["a", ""]),
        (["bc", "abcd"], ["abcd"], ["a", ""]),  # "bc" is there before "abcd" is
        (["bc", "abc"], ["xab", "c"], ["x", "", ""]),
        (["aab"], ["a", "a", "a", "b"], ["", "", "a", "", ""]),
        (["。好"], ["你", "。", "。", "好"], ["你", "", "。", "", ""]),
        ([], ["a", "b"], ["a", "b", ""]),
        (["a"], [], [""]),
    ],
)
def test_by_hand(stops, pieces, expected):
    assert shown(stops, pieces)[0] == expected


def test_what_stopped_it():
    assert shown(["bc", "abc"], ["xab", "cd"])[1] == "abc"
    assert shown(["bc", "abc"], ["xab"])[1] is None
    stop = StopText(["a"])
    assert not stop.stopped
    stop.push("a")
    assert stop.stopped


letters = st.text("ab", max_size=14)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=6), max_size=4)


@given(stop_lists, letters, st.lists(st.integers(0, 20), max_size=6))
def test_it_is_the_whole_text_cut_once(stops, text, cuts):
    expected, found = naive(stops, text)
    parts, stopped_by = shown(stops, pieces_of(text, cuts))
    assert ("".join(parts), stopped_by) == (expected, found)


@given(stop_lists, st.text("ab", max_size=7))
def test_every_splitting_of_a_text_is_the_same(stops, text):
    expected = naive(stops, text)
    for count in range(len(text)):
        for cuts in itertools.combinations(range(1, len(text)), count):
            parts, found = shown(stops, pieces_of(text, cuts))
            assert ("".join(parts), found) == expected


@given(stop_lists.filter(bool), letters, st.lists(st.integers(0, 20), max_size=6))
def test_no_more_is_held_back_than_must_be(stops, text, cuts):
    stop, came, went = StopText(stops), "", ""
    for piece in pieces_of(text, cuts):
        came, went = came + piece, went + stop.push(piece)
        if stop.stopped:
            break
        held = longest_beginning(stops, came)
        assert went + held == came
        assert len(held) < max(map(len, stops))


def test_time_is_linear_in_the_text_and_the_stop_string():
    """Counted, not timed: steps to a shorter beginning are never more than characters read."""
    stop = StopText(["a" * 2000 + "b"])
    steps = 0

    class Counted(list):
        def __getitem__(self, place):
            nonlocal steps
            steps += 1
            return super().__getitem__(place)

    stop._shorter = Counted(stop._shorter)
    text = ("a" * 1999 + "c") * 10
    assert "".join(map(stop.push, text)) + stop.flush() == text
    assert 0 < steps <= len(text)


@pytest.mark.parametrize(
    ("stops", "error", "line"),
    [
        ([""], ValueError, "stop: an empty string, at least 1 character is needed"),
        (["a", ""], ValueError, "stop: an empty string, at least 1 character is needed"),
        ("ab", TypeError, "stop: a str, a sequence of str is needed"),
        ([b"a"], TypeError, "stop: bytes, str is needed"),
    ],
)
def test_what_is_no_stop_string_is_refused(stops, error, line):
    with pytest.raises(error) as caught:
        StopText(stops)
    assert str(caught.value) == line

"""The word that was meant: close ones only, dashes aside."""

import pytest

from minillm.words import meant, nearest

FLAGS = ["--help", "--length-penalty", "--lookup", "--max-tokens", "--seed", "--temperature",
         "--threads", "--top-k", "--top-p"]  # fmt: skip


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--temprature", "--temperature"),
        ("--max-token", "--max-tokens"),
        ("--thread", "--threads"),
        ("--temp", "--temperature"),  # how it begins
        ("--length", "--length-penalty"),
        ("-seed", "--seed"),
        ("--color", None),
        ("--verbose", None),
        ("--he", "--help"),
        ("--h", None),  # too little to tell
        ("--zzz", None),
        ("--", None),
        ("", None),
    ],
)
def test_only_a_close_word_is_a_guess(word, near):
    assert nearest(word, FLAGS) == near


def test_words_are_not_alike_for_their_dashes():
    assert nearest("--threads", ["--help", "--json"]) is None


def test_what_was_meant_or_all_there_is():
    assert meant("exot", {"exit": 1, "save": 2}) == "; did you mean exit?"
    assert meant("quit", ["exit", "save"], "; see /help") == "; see /help"
    assert meant("now", ["exit", "save"]) == ", one of exit, save is needed"

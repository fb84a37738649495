"""Which tokens are hidden from a masked language model: how many, which, and what replaces them."""

import numpy as np
import pytest

from minillm import tokenizers
from minillm.data.masking import Masking

TEXT = "the badger was knitting socks while the unhappy heron was whistling to herself\n" * 9


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train("wordpiece", [TEXT], vocab_size=64)


@pytest.fixture(scope="module")
def row(tokenizer):
    return np.array(tokenizer.encode(TEXT, add_special_tokens=True))


def test_of_n_tokens_fifteen_percent_are_asked_for_and_never_a_control_token(tokenizer, row):
    masking = Masking(tokenizer, seed=3)
    for length in (3, 4, 5, 9, 12, 40, 120):
        some = np.concatenate([row[: length - 1], row[-1:]])
        found = masking(some, 0, length)
        assert len(found.places) == max(1, round(0.15 * (length - 2)))
        assert len(set(found.places.tolist())) == len(found.places)
        assert np.array_equal(found.targets, some[found.places])
        assert not {0, length - 1} & set(found.places.tolist())
        untouched = np.setdiff1d(np.arange(length), found.places)
        assert np.array_equal(found.ids[untouched], some[untouched])


def test_what_stands_in_their_place_is_the_mask_any_token_or_the_token(tokenizer, row):
    """Chi-square over three fates, and over which places are asked for."""
    masking, mask = Masking(tokenizer, seed=0), tokenizer.role_ids["mask"]
    ordinary = tokenizer.vocab_size - 5
    fates, asked = np.zeros(3), np.zeros(len(row))
    rows = 1500
    for number in range(rows):
        found = masking(row, 0, number)
        seen = found.ids[found.places]
        asked[found.places] += 1
        hidden, same = seen == mask, seen == found.targets
        fates += [hidden.sum(), same.sum(), (~hidden & ~same).sum()]
    count = round(0.15 * (len(row) - 2))
    total = rows * count
    assert fates.sum() == total
    expected = total * np.array([0.8, 0.1 + 0.1 / ordinary, 0.1 - 0.1 / ordinary])
    assert ((fates - expected) ** 2 / expected).sum() < 13.8  # 2 degrees of freedom, 0.1 %
    inside = asked[1:-1]
    share = count / len(inside)
    chi = ((inside - rows * share) ** 2 / (rows * share * (1 - share))).sum()
    assert abs(chi - len(inside)) < 4 * np.sqrt(2 * len(inside))


def test_a_mask_is_a_function_of_seed_kind_and_number(tokenizer, row):
    masking = Masking(tokenizer, seed=1)
    first = masking(row, 0, 5)
    again = Masking(tokenizer, seed=1)
    again(row, 0, 4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again(row, 0, 5), strict=True))
    others = [masking(row, 0, 6), masking(row, 1, 5), Masking(tokenizer, seed=2)(row, 0, 5)]
    for other in others:
        assert not np.array_equal(first.places, other.places)


def test_whole_words_are_hidden_with_all_their_pieces(tokenizer, row):
    masking = Masking(tokenizer, seed=0, whole_word=True)
    names = [tokenizer.id_to_token(id) for id in row]
    word = np.cumsum([not name.startswith("##") for name in names])
    assert len(set(word.tolist())) < len(row) - 40  # there are words of several pieces
    count = round(0.15 * (len(row) - 2))
    sizes = np.bincount(word)
    for number in range(50):
        found = masking(row, 0, number)
        for one in set(word[found.places].tolist()):
            assert (word[found.places] == one).sum() == sizes[one]
        assert count - sizes.max() < len(found.places) <= count
    longest = word == np.argmax(sizes)
    short = np.concatenate([row[:1], row[longest], row[-1:]])
    assert len(masking(short, 0, 0).places) == len(short) - 2  # one word at least


def test_a_row_of_control_tokens_asks_for_nothing(tokenizer):
    around = np.array(tokenizer.around([]))
    for whole_word in (False, True):
        found = Masking(tokenizer, 0, whole_word)(around, 0, 0)
        assert len(found.places) == len(found.targets) == 0
        assert np.array_equal(found.ids, around)

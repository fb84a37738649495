"""Span corruption against T5's published lengths and what its preprocessors promise."""

from collections import Counter

import numpy as np
import pytest

from minillm.data import spans


def stream(seed):
    return np.random.Philox(seed)


def test_lengths_are_those_that_t5_was_trained_with():
    """compute_input_and_target_lengths(512, 0.15, 3.0) is (568, 114) in T5's repository."""
    assert spans.raw_length(512) == 568
    assert spans.lengths(568) == (512, 114)
    for inputs in range(4, 200):
        length = spans.raw_length(inputs)
        assert spans.lengths(length)[0] <= inputs < spans.lengths(length + 1)[0]


@pytest.mark.parametrize("length", [2, 3, 7, 20, 568])
def test_a_mask_has_the_promised_spans(length):
    noise, parts = spans.counts(length)
    for seed in range(20):
        mask = spans.noise_mask(length, stream(seed))
        assert mask.shape == (length,)
        assert mask.sum() == noise
        assert not mask[0]
        assert mask[-1]
        assert (np.diff(mask.astype(int)) == 1).sum() == parts


def test_every_choice_of_spans_is_equally_probable():
    """20 tokens: 3 in 1 span; 34: 5 in 2 spans, sizes 1+4 ... 4+1: chi-square."""
    found = Counter()
    trials = 4000
    for seed in range(trials):
        mask = spans.noise_mask(34, stream(seed))
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(int), [0]))))
        found[int(edges[1] - edges[0])] += 1
    assert sorted(found) == [1, 2, 3, 4]
    expected = trials / 4
    assert sum((n - expected) ** 2 / expected for n in found.values()) < 16.3  # 3 degrees, 0.1 %


def test_spans_give_way_to_sentinels_in_their_order():
    ids = np.arange(1, 41)
    marks = np.array([99, 98, 97])
    inputs, targets = spans.corrupt(ids, marks, stream(0))
    mask = spans.noise_mask(40, stream(0))
    expected_in, expected_out, last = [], [], None
    for id, taken in zip(ids.tolist(), mask.tolist(), strict=True):
        if not taken:
            expected_in.append(id)
            last = None
            continue
        if last is None:
            last = marks[len([one for one in expected_in if one > 90])]
            expected_in.append(int(last))
            expected_out.append(int(last))
        expected_out.append(id)
    assert inputs.tolist() == expected_in
    assert targets.tolist() == expected_out

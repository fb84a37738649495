"""What an evaluation finds, and what two of them say of each other."""

import itertools

import numpy as np
import pytest

from minillm.generation.scoring import Score, score
from minillm.quant import compare, evaluate
from minillm.tokenizers import CharTokenizer
from small_gpt2 import small

TOKENIZER = CharTokenizer.from_characters("abcdefghijkl", ())


def scored(values, ids=(1, 2, 3, 4)):
    return Score(list(ids), [""] * 4, [None, *values], 4, 1)


def test_the_score_is_that_of_generation():
    told = []
    text = "abcdefghijklabcdefgh"
    windows = {"context": 6, "stride": 2, "progress": told.append}
    found = evaluate(small(), TOKENIZER, text, **windows, clock=lambda: 0.0)
    assert found.score == score(small(), TOKENIZER, text, context=6, stride=2)
    assert sum(told) == found.score.scored == 19
    assert found.read_per_s is None is found.decoded_per_s  # too short to be timed


def test_speeds_are_told_where_there_was_time_to_measure_them():
    clock = itertools.count(0, 2).__next__  # whatever is done takes two seconds
    found = evaluate(small(), TOKENIZER, "abcdefghijklabcdefgh", context=6, stride=2, clock=clock)
    assert found.read_per_s == 6 * found.score.windows / 2
    assert found.decoded_per_s == 1 / 2


def test_a_text_shorter_than_the_prompt_of_the_timing_is_taken():
    assert evaluate(small(), TOKENIZER, "ab").score.scored == 1


def test_a_comparison_pairs_the_tokens():
    before, after = [-1.0, -4.0, -9.0], [-1.1, -4.4, -9.4]
    ratio, error = compare(scored(before), scored(after))
    assert ratio == pytest.approx(scored(after).perplexity / scored(before).perplexity)
    lost = np.array([0.1, 0.4, 0.4])
    assert error == pytest.approx(ratio * lost.std(ddof=1) / np.sqrt(3))
    assert error < scored(after).perplexity_error / 20


def test_scores_of_other_tokens_are_not_compared():
    with pytest.raises(ValueError, match="compare: scores of different tokens"):
        compare(scored([-1.0, -2.0, -3.0]), scored([-1.0, -2.0, -3.0], (1, 2, 3, 5)))

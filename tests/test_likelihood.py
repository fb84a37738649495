"""Log-probabilities against decimal arithmetic, and which of several texts is best."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.generation.sampling import (
    Sampler,
    best_of,
    log_probabilities,
    top_log_probabilities,
)


def exactly(logits):
    """With so many digits that 1 + exp(-700) is not 1."""
    with localcontext(prec=360, Emax=10**12, Emin=-(10**12)):
        values = [Decimal(float(value)) for value in logits]
        total = sum((value - max(values)).exp() for value in values)
        return [float(value - max(values) - total.ln()) for value in values]


@pytest.mark.parametrize(
    "logits",
    [
        [0.0],
        [2.0, 1.0, 0.0],
        [50, 0],  # -exp(-50) for the first, not 0
        [700, 0, 1, -700],
        [1e5, 1e5, -1e5],
        [3e38, -3e38, 0],
        [1e-30, 0, -1e-30],
        [5.0] * 7,
    ],
)
@pytest.mark.parametrize("width", [np.float32, np.float64])
def test_extreme_logits(logits, width):
    logits = np.array(logits, width)
    got = log_probabilities(logits)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, exactly(logits), rtol=4e-16)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12))
def test_any_logits(values):
    logits = np.array(values, np.float32)
    np.testing.assert_allclose(log_probabilities(logits), exactly(logits), rtol=1e-13, atol=1e-300)


def test_a_large_vocabulary():
    np.testing.assert_allclose(
        log_probabilities(np.full(200_000, -3, np.float32)), -math.log(200_000), rtol=1e-15
    )
    logits = np.random.default_rng(0).standard_normal(50_257).astype(np.float32) * 5
    total = math.log(math.fsum(math.exp(value) for value in logits.tolist()))
    np.testing.assert_allclose(log_probabilities(logits), logits.astype(float) - total, rtol=1e-13)


def test_what_is_ruled_out_stays_so():
    got = log_probabilities(np.array([-math.inf, 0, -math.inf, 0]))
    assert got.tolist() == [-math.inf, -math.log(2), -math.inf, -math.log(2)]


def test_the_best_come_first_and_of_equals_the_lowest_id():
    logits = np.array([1, 3, -math.inf, 3, 2, 1], np.float32)
    right = exactly(logits[[1, 3, 4, 0, 5]])
    for n in range(8):
        got = top_log_probabilities(logits, n)
        assert [id for id, _ in got] == [1, 3, 4, 0, 5][:n]
        np.testing.assert_allclose([value for _, value in got], right[:n], rtol=1e-15)
        assert all(type(id) is int and type(value) is float for id, value in got)


def test_they_are_the_model_s_own():
    """Before any step: a temperature changes what is drawn, not what the model said."""
    logits = np.array([2.0, 1.0, 0.0], np.float32)
    np.testing.assert_allclose(
        np.exp(log_probabilities(logits)), Sampler().probabilities(logits), rtol=1e-15
    )
    assert top_log_probabilities(logits, 1)[0][1] == pytest.approx(math.log(0.66524096))


@pytest.mark.parametrize("n", [-1, 1.0, True, "2", None])
def test_an_impossible_number_is_refused(n):
    with pytest.raises(ValueError, match=r"^logprobs: .*, a whole number of 0 or more is needed"):
        top_log_probabilities(np.zeros(3), n)


@pytest.mark.parametrize("values", [[math.nan, 1], [math.inf, 1], [-math.inf], []])
def test_logits_that_are_no_distribution_are_refused(values):
    with pytest.raises(ValueError, match="sampling: "):
        log_probabilities(np.array(values))


class TestBestOf:
    def test_means_are_compared_not_sums(self):
        texts = [[-1.0, -2.0], [-1.4] * 10, [-3.0], [], [-1.4]]
        assert best_of(texts, 5) == [1, 4, 0, 2, 3]  # the first of equals
        assert best_of(texts) == [1]
        assert best_of([[]]) == [0]
        assert best_of([[-math.inf], [-1e300]]) == [1]

    def test_its_sum_is_exact(self):
        assert best_of([[-1e16, *[share] * 1000] for share in (-1.0, -0.5)]) == [1]

    @pytest.mark.parametrize("n", [0, 3, -1])
    def test_more_than_there_are_cannot_be_chosen(self, n):
        with pytest.raises(ValueError, match=f"best-of: {n} of 2 texts"):
            best_of([[-1.0], [-2.0]], n)

    @pytest.mark.parametrize("value", [math.nan, 0.1, math.inf])
    def test_what_is_no_log_probability_is_refused(self, value):
        with pytest.raises(ValueError, match=r"best-of: a log-probability of .*, at most 0"):
            best_of([[-1.0, value]])

"""Each step of sampling: values by hand, properties, and draws that follow exactly what is left."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.arrays import new_generator
from minillm.generation import Sampler, Seen
from minillm.generation.sampling import choosing
from minillm.generation.sampling.filters import Greedy, MinP, TopK, TopP, Typical
from minillm.generation.sampling.penalties import (
    FrequencyPenalty,
    PresencePenalty,
    RepetitionPenalty,
)
from minillm.generation.sampling.steps import Temperature


def logits_of(shares):
    with np.errstate(divide="ignore"):
        return np.log(np.array(shares, float))


def kept(step, shares):
    return np.flatnonzero(step(logits_of(shares)) > -math.inf).tolist()


# -- values by hand: shares of the tokens, what the step is given, the ids that stay ----------

HALVES = [32, 16, 8, 4, 2, 1, 1]  # surprises 1 2 3 4 5 6 6 bits, entropy 126/64 = 1.97 bits


@pytest.mark.parametrize(
    "step, shares, ids",
    [
        (TopP(0.9), [50, 41, 9], [0, 1]),
        (TopP(0.8), [40, 30, 20, 10], [0, 1, 2]),
        (TopP(0.8), [30, 20, 50], [0, 2]),  # 0.5 + 0.3 has reached 0.8
        (TopP(0.9), [1] * 10, list(range(9))),  # as has nine times 0.1
        (TopP(0.3), [1] * 10, [0, 1, 2]),
        (TopP(0.0), [1, 3, 3], [1]),
        (TopP(1e-8), [1, 3, 3], [1]),
        (TopP(1 - 1e-8), [1, 0, 3], [0, 2]),
        (TopP(1), [1, 0, 3], [0, 2]),
        (TopK(2), [1, 3, 3, 3], [1, 2]),
        (TopK(3), [0, 0, 1, 0], [2]),
        (TopK(0), [1, 0, 1], [0, 2]),
        (MinP(0.1), [50, 30, 10, 5, 4], [0, 1, 2, 3]),  # the bound is 0.1 * 0.50 = 0.05
        (MinP(0.6), [30, 50, 29], [0, 1]),
        (MinP(1), [3, 2, 3], [0, 2]),
        (MinP(0), [3, 0, 3], [0, 2]),
        (Typical(0.2), HALVES, [1]),  # 2 bits are nearest to 1.97
        (Typical(0.25), HALVES, [1]),
        (Typical(0.26), HALVES, [0, 1]),
        (Typical(0.75), HALVES, [0, 1]),
        (Typical(0.8), HALVES, [0, 1, 2]),
        (Typical(0.98), HALVES, [0, 1, 2, 3, 4, 5]),  # the first of two equals
        (Typical(0.99), HALVES, [0, 1, 2, 3, 4, 5, 6]),
        (Typical(0), HALVES, [1]),
        (Typical(1), [*HALVES, 0], [0, 1, 2, 3, 4, 5, 6]),
        (Typical(0.5), [1, 1, 1, 0, 1], [0, 1]),
        (Greedy(), [1, 0, 3, 3], [2]),
    ],
)
def test_a_filter_keeps(step, shares, ids):
    assert kept(step, shares) == ids
    left = step(logits_of(shares))
    assert np.array_equal(left[ids], logits_of(shares)[ids])


def test_typical_can_leave_out_the_most_probable():
    shares = [40] + [1] * 60  # entropy 4.51 bits: 1.32 bits are further from it than 6.64
    assert kept(Typical(0.4), shares) == list(range(1, 41))


TEXT = Seen([4, 4, 0], [1, 1, 1, 2])
LOGITS = [2.0, 3.0, -1.0, 0.5, 0.0, -math.inf]


@pytest.mark.parametrize(
    "step, right",
    [
        (RepetitionPenalty(2.0), [1.0, 1.5, -2.0, 0.5, 0.0, -math.inf]),
        (RepetitionPenalty(0.5), [4.0, 6.0, -0.5, 0.5, 0.0, -math.inf]),
        (FrequencyPenalty(0.5), [2.0, 1.5, -1.5, 0.5, 0.0, -math.inf]),
        (FrequencyPenalty(-2), [2.0, 9.0, 1.0, 0.5, 0.0, -math.inf]),
        (PresencePenalty(0.5), [2.0, 2.5, -1.5, 0.5, 0.0, -math.inf]),
        (Temperature(2.0), [1.0, 1.5, -0.5, 0.25, 0.0, -math.inf]),
    ],
)
def test_a_step_that_changes_logits(step, right):
    assert step(np.array(LOGITS), TEXT).tolist() == right
    assert step(np.array(LOGITS, np.float32), TEXT).tolist() == right


def test_a_token_beyond_the_logits_needs_no_penalty():
    step, seen = RepetitionPenalty(2.0), Seen([1, 7], [9, 0])
    assert step(np.array([1.0, 4.0, 8.0]), seen).tolist() == [0.5, 2.0, 8.0]


@pytest.mark.parametrize("step", [RepetitionPenalty(2.0), FrequencyPenalty(1), PresencePenalty(1)])
def test_a_penalty_without_a_text_is_refused(step):
    name = step.name.replace("_", "-")
    with pytest.raises(ValueError, match=rf"^{name}: the tokens of the text so far are needed"):
        step(np.zeros(3))


# -- properties -------------------------------------------------------------------------------

FILTERS = [TopK(3), TopP(0.7), MinP(0.2), Typical(0.6), Greedy()]
different = st.lists(st.integers(-400, 400), min_size=1, max_size=30, unique=True)
shares_of_one = st.floats(0, 1)


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize("step", FILTERS)
@given(numbers=different, order=st.randoms(use_true_random=False))
def test_the_order_of_the_ids_does_not_matter(step, numbers, order):
    places = list(range(len(numbers)))
    order.shuffle(places)
    logits = np.array(numbers) / 40
    assert np.array_equal(step(logits[places]), step(logits)[places])


@pytest.mark.parametrize("narrow", [TopP, Typical, lambda p: MinP(1 - p)])
@given(numbers=different, a=shares_of_one, b=shares_of_one)
def test_a_wider_filter_keeps_all_that_a_narrower_one_keeps(narrow, numbers, a, b):
    logits = np.array(numbers) / 40
    narrower, wider = (np.isfinite(narrow(p)(logits)) for p in sorted((a, b)))
    assert narrower.any()
    assert not (narrower & ~wider).any()


@given(numbers=different, k=st.integers(1, 31))
def test_a_larger_k_adds_exactly_one(numbers, k):
    fewer, more = (np.isfinite(TopK(k)(np.array(numbers))) for k in (k, k + 1))
    assert fewer.sum() == min(k, len(numbers))
    assert not (fewer & ~more).any()


@pytest.mark.parametrize("step", [TopK(3), MinP(0.2), Greedy()])  # the others renormalise first
@given(numbers=different)
def test_some_filters_twice_are_the_filter_once(step, numbers):
    once = step(np.array(numbers) / 40)
    assert np.array_equal(step(once), once)


@given(numbers=different, p=shares_of_one)
def test_the_nucleus_is_the_smallest_set_of_that_mass(numbers, p):
    probabilities = softmax(np.array(numbers) / 40)
    inside = np.isfinite(TopP(p)(np.log(probabilities)))
    mass = probabilities[inside].sum()
    assert mass >= p - 1e-9
    assert inside.sum() == 1 or mass - probabilities[inside].min() < p
    assert probabilities[inside].min() >= probabilities[~inside].max(initial=0)


@settings(max_examples=40)
@pytest.mark.parametrize("narrow", [TopP, Typical])
@given(seed=st.integers(0, 10**6), p=shares_of_one)
def test_buckets_change_nothing(narrow, seed, p):
    """A long list is narrowed by buckets, a short one is sorted: both give the same."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal(5000) * rng.choice([0, 1e-3, 1, 10, 1e3])
    if seed % 2:
        logits = logits.round(1)  # many equals
    got, before = narrow(p)(logits), choosing._SORTED_AT_ONCE
    choosing._SORTED_AT_ONCE = 10**9
    try:
        assert np.array_equal(got, narrow(p)(logits))
    finally:
        choosing._SORTED_AT_ONCE = before


EXTREME = [Temperature(1e-5), *map(RepetitionPenalty, (1e-300, 3.0, 1e300))]


@pytest.mark.parametrize("step", [*FILTERS, *EXTREME])
@pytest.mark.parametrize("values", [[1e308, -1e308, 0, -math.inf], [-1e308] * 3, [3e38, 1, -3e38]])
def test_extreme_logits_leave_a_token(step, values):
    values = np.array(values, np.float64)
    values.flags.writeable = False
    with np.errstate(all="raise", under="ignore"):
        left = step(values, Seen(range(4)))
    assert math.isfinite(left.max())
    assert not np.isfinite(left[values == -math.inf]).any()


# -- draws ------------------------------------------------------------------------------------

CENTS = [30, 25, 20, 10, 8, 4, 2, 1]
IDS = [5, 2, 7, 0, 3, 6, 1, 4]  # the ids of those
GENERATED = [5, 5, 5, 7]  # 30 three times, 20 once
PROMPT = [2, 5, 2]  # 25 and 30
LOG_2 = math.log(2)

CASES = [
    ({}, CENTS),
    ({"temperature": 0.5}, [900, 625, 400, 100, 64, 16, 4, 1]),
    ({"temperature": 2.0}, [math.sqrt(share) for share in CENTS]),
    ({"top_k": 3}, [30, 25, 20]),
    ({"top_p": 0.8}, [30, 25, 20, 10]),
    ({"top_p": 0.75}, [30, 25, 20]),
    ({"min_p": 0.2}, [30, 25, 20, 10, 8]),
    ({"typical": 0.7}, [30, 25, 20]),  # entropy 2.52 bits; surprises 1.74, 2.00, 2.32, 3.32 ...
    ({"repetition_penalty": 2.0}, [30**0.5, 25**0.5, 20**0.5, 10, 8, 4, 2, 1]),
    ({"frequency_penalty": LOG_2}, [30 / 8, 25, 20 / 2, 10, 8, 4, 2, 1]),
    ({"presence_penalty": LOG_2}, [30 / 2, 25, 20 / 2, 10, 8, 4, 2, 1]),
    ({"top_k": 5, "top_p": 0.8}, [30, 25, 20]),  # of 93: 75 before the fourth are enough
    ({"top_k": 3, "typical": 0.3}, [0, 25]),  # of 75: surprise 1.58 is nearest to 1.57
    ({"temperature": 0.5, "top_k": 4, "top_p": 0.95, "min_p": 0.2}, [900, 625, 400]),
    ({"presence_penalty": 2 * LOG_2, "top_k": 2}, [0, 25, 0, 10]),  # 30 / 4 and 20 / 4 are not
]


def exact(shares):
    """Probabilities (8,) by id, for shares in the order of CENTS."""
    probabilities = np.zeros(8)
    probabilities[IDS[: len(shares)]] = np.array(shares) / math.fsum(shares)
    return probabilities


def case_logits():
    return logits_of(np.array(CENTS)[np.argsort(IDS)]).astype(np.float32)


class Draw:
    """A generator that gives one known number."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


@pytest.mark.parametrize("options, shares", CASES)
def test_probabilities_are_exact(options, shares):
    got = Sampler(**options).probabilities(case_logits(), Seen(PROMPT, GENERATED))
    np.testing.assert_allclose(got, exact(shares), rtol=3e-7)


@pytest.mark.parametrize("options, shares", CASES)
def test_evenly_spaced_numbers_give_the_exact_shares(options, shares):
    sampler, seen, count = Sampler(**options), Seen(PROMPT, GENERATED), 1000
    logits = case_logits()
    drawn = [sampler.pick(logits, Draw((n + 0.5) / count), seen) for n in range(count)]
    counts = np.bincount(drawn, minlength=8)
    assert drawn == sorted(drawn)
    assert (np.abs(counts - count * exact(shares)) <= 1).all()


CHI_SQUARE = [0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32]
"""Exceeded with probability 0.001, by degrees of freedom."""


def surprising(counts, probabilities):
    """Whether the chi-square test refuses the counts at the level 0.001."""
    possible = probabilities > 0
    expected = counts.sum() * probabilities[possible]
    distance = ((counts[possible] - expected) ** 2 / expected).sum()
    return counts[~possible].any() or distance > CHI_SQUARE[possible.sum() - 1]


@pytest.mark.parametrize("options, shares", CASES)
def test_draws_follow_the_exact_probabilities(options, shares):
    sampler, seen, generator = Sampler(**options), Seen(PROMPT, GENERATED), new_generator(11)
    logits, right = case_logits(), exact(shares)
    drawn = [sampler.pick(logits, generator, seen) for _ in range(6000)]
    assert not surprising(np.bincount(drawn, minlength=8), right)
    probabilities = sampler.probabilities(logits, seen)
    counts = np.bincount(generator.choice(8, 50_000, p=probabilities), minlength=8)
    assert not surprising(counts, right)
    if (right > 0).sum() > 1:  # and the test would see a share that is 10 % off
        wrong = right * np.where(np.arange(8) == np.argmax(right), 1.1, 1)
        assert surprising(counts, wrong / wrong.sum())

"""Sampling: every step does what its paper says, and draws follow exactly what is left."""

import math

import numpy as np
import pytest

from minillm.arrays import new_generator
from minillm.generation import Sampler


def logits_of(probabilities):
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities))


def kept(sampler, values):
    return np.flatnonzero(sampler.probabilities(np.array(values))).tolist()


class Draw:
    """A generator that gives one known number."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


class TestSampler:
    def test_temperature_1_is_the_softmax(self):
        got = Sampler().probabilities(np.array([2.0, 1.0, 0.0], np.float32))
        np.testing.assert_allclose(got, [0.6652410, 0.2447285, 0.0900306], atol=1e-7)
        assert got.dtype == np.float64

    def test_temperature_divides_the_logits(self):
        hot, cold = (Sampler(t).probabilities(np.array([2.0, 1.0, 0.0])) for t in (2, 0.5))
        np.testing.assert_allclose(hot, [0.5064804, 0.3071959, 0.1863237], atol=1e-7)
        np.testing.assert_allclose(cold, [0.8668133, 0.1173104, 0.0158762], atol=1e-7)

    @pytest.mark.parametrize("temperature", [0, 1e-8, 9e-6])
    def test_temperature_0_takes_the_best_and_of_equals_the_first(self, temperature):
        sampler = Sampler(temperature)
        for values, best in (([0, 3, 1], 1), ([2, 5, 5, 5], 1), ([-math.inf, -1e30], 1)):
            assert kept(sampler, values) == [best]
            assert sampler.pick(np.array(values), Draw(0.999)) == best

    @pytest.mark.parametrize(
        "options, message",
        [({"temperature": -1}, "temperature: -1"), ({"temperature": math.nan}, "temperature: nan"),
         ({"temperature": math.inf}, "temperature: inf"), ({"top_k": -1}, "top-k: -1"),
         ({"top_p": -0.1}, "top-p: -0.1"), ({"top_p": 1.1}, "top-p: 1.1"),
         ({"top_p": math.nan}, "top-p: nan")],
    )  # fmt: skip
    def test_impossible_settings_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            Sampler(**options)

    @pytest.mark.parametrize(
        "probabilities, top_p, count",
        [
            ([0.5, 0.41, 0.09], 0.9, 2),
            ([0.4, 0.3, 0.2, 0.1], 0.8, 3),
            ([0.5, 0.3, 0.2], 0.8, 2),
            ([0.25, 0.25, 0.25, 0.25], 0.5, 2),
            ([0.5, 0.3, 0.2], 0, 1),
            ([0.5, 0.3, 0.2], 1e-8, 1),
            ([0.5, 0.3, 0.2], 1, 3),
            ([0.5, 0.5, 0.0], 1, 2),
        ],
    )
    def test_the_nucleus_is_what_stands_before_top_p(self, probabilities, top_p, count):
        assert kept(Sampler(top_p=top_p), logits_of(probabilities)) == list(range(count))

    def test_what_is_left_is_normalised_again(self):
        got = Sampler(top_p=0.8).probabilities(logits_of([0.2, 0.5, 0.3]))
        np.testing.assert_allclose(got, [0, 0.625, 0.375], atol=1e-12)

    def test_the_nucleus_is_that_of_the_narrowed_distribution(self):
        sampler = Sampler(top_k=2, top_p=0.6)  # of 0.5 / 0.8 and 0.3 / 0.8
        assert kept(sampler, logits_of([0.5, 0.3, 0.2])) == [0]

    @pytest.mark.parametrize(
        "top_k, ids", [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3, 4]), (0, [1, 2, 3, 4])]
    )
    def test_top_k_keeps_the_first_of_equals_and_never_what_is_ruled_out(self, top_k, ids):
        assert kept(Sampler(top_k=top_k), [-math.inf, 2, 1, 1, 1]) == ids

    def test_among_many_equals_the_lowest_ids_stay(self):
        values = np.zeros(1000)
        values[::3] = 1
        assert kept(Sampler(top_k=5), values) == [0, 3, 6, 9, 12]
        assert kept(Sampler(top_k=400), values) == sorted({*range(0, 1000, 3), *range(99)})

    def test_the_tail_of_a_large_vocabulary_can_occur(self):
        """Summed in float32, the last tokens could not."""
        flat = np.zeros(50257, np.float32)
        assert Sampler().pick(flat, Draw(0.9999999)) == int(0.9999999 * 50257)
        assert Sampler().pick(flat, Draw(np.nextafter(1, 0))) == 50256
        assert Sampler().pick(flat, Draw(0.0)) == 0

    @pytest.mark.parametrize("number", [0.0, 0.5, np.nextafter(0.5, 0), np.nextafter(1, 0)])
    def test_what_has_no_probability_is_never_drawn(self, number):
        values = logits_of([0, 0.5, 0, 0, 0.5, 0])
        assert Sampler().pick(values, Draw(number)) in (1, 4)

    def test_shares_follow_the_probabilities(self):
        sampler, generator = Sampler(0.7, top_k=3), new_generator(5)
        values = np.array([1.0, 0.5, 2.0, -1.0])
        counts = np.bincount([sampler.pick(values, generator) for _ in range(4000)], minlength=4)
        expected = sampler.probabilities(values)
        sigma = np.sqrt(expected * (1 - expected) / 4000)
        assert (np.abs(counts / 4000 - expected) <= 5 * sigma).all()

    @pytest.mark.parametrize("temperature", [0, 1])
    @pytest.mark.parametrize("values", [[math.nan, 1], [-math.inf, -math.inf], [math.inf, 1]])
    def test_logits_that_are_no_distribution_are_refused(self, values, temperature):
        with pytest.raises(ValueError, match="sampling: the logits hold"):
            Sampler(temperature).pick(np.array(values), new_generator(0))


def test_a_nucleus_of_everything_keeps_the_most_improbable():
    assert (Sampler().probabilities(np.array([0.0, -40.0, -50.0])) > 0).all()

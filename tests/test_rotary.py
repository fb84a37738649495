"""Rotary angles and their scalings, and attention within a window."""

import math

import numpy as np
import pytest

from minillm import Tensor, nn, ops
from minillm.nn.rotary import half_split, interleaved
from small_llama import BANDS, FACTORS

DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
LIKE = np.zeros(1)


def tensor(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape))


class TestLayout:
    def test_pairs_are_halves_of_the_head_apart(self):
        """q = [1, 2, 3, 4] at position 1, with angles 1 and 0.01."""
        angles = nn.Rotary(4, 10, DEFAULT).angles(1, 2, LIKE)
        q = Tensor(np.array([1.0, 2, 3, 4]).reshape(1, 1, 1, 4))
        np.testing.assert_allclose(
            angles.turn(q).data.ravel(), [-1.98411, 1.95990, 2.46238, 4.0198], atol=5e-6
        )
        other = ops.rotary_embedding(q, *angles, interleaved=True)
        np.testing.assert_allclose(
            other.data.ravel(), [-1.14264, 1.92208, 2.95985, 4.0298], atol=5e-6
        )

    def test_a_permuted_projection_turns_as_the_interleaved_one(self):
        heads, size, x = 3, 8, tensor(1, 5, 6)
        weight, bias = tensor(heads * size, 6, seed=1).data, tensor(heads * size, seed=2).data
        angles = nn.Rotary(size, 10, DEFAULT).angles(0, 5, LIKE)
        original = nn.split_heads(ops.linear(x, weight, bias), heads)
        original = ops.rotary_embedding(original, *angles, interleaved=True).data
        ours = ops.linear(x, half_split(weight, heads), half_split(bias, heads))
        ours = angles.turn(nn.split_heads(ours, heads)).data
        np.testing.assert_allclose(ours[..., :4], original[..., ::2], atol=1e-12)
        np.testing.assert_allclose(ours[..., 4:], original[..., 1::2], atol=1e-12)
        for array in (weight, bias):
            assert np.array_equal(interleaved(half_split(array, heads), heads), array)
            assert not np.array_equal(half_split(array, heads), array)


class TestScaling:
    def steps(self, length=1, dtype="float64", size=8, positions=64, **parameters):
        return nn.Rotary(size, positions, DEFAULT | parameters).frequencies(length, dtype)

    def test_the_plain_ones_are_powers_of_theta(self):
        np.testing.assert_allclose(self.steps(), [1, 0.1, 0.01, 0.001], rtol=1e-14)

    def test_linear_divides(self):
        got = self.steps(rope_type="linear", factor=4.0)
        np.testing.assert_allclose(got, self.steps() / 4, rtol=1e-14)

    def test_dynamic_grows_with_the_length_beyond_the_positions(self):
        dynamic = {"rope_type": "dynamic", "factor": 2.0}
        for length in (1, 64):
            assert np.array_equal(self.steps(length, **dynamic), self.steps())
        theta = 10000 * (2 * 128 / 64 - 1) ** (8 / 6)
        np.testing.assert_allclose(self.steps(128, **dynamic), theta ** -(np.arange(4) / 4))

    def test_longrope_changes_lists_after_the_original_positions(self):
        settings = {"rope_type": "longrope", "original_max_position_embeddings": 16, **FACTORS}
        for length, name in ((16, "short_factor"), (17, "long_factor")):
            got = self.steps(length, **settings)
            np.testing.assert_allclose(got * FACTORS[name], self.steps())
        scale = nn.Rotary(8, 64, settings).attention_factor
        np.testing.assert_allclose(scale, math.sqrt(1 + math.log(4) / math.log(16)))

    @pytest.mark.parametrize(
        "settings",
        [{"rope_type": "llama3", "factor": 8.0, **BANDS}, {"rope_type": "yarn", "factor": 8.0}],
    )
    def test_bands_keep_the_fast_and_slow_down_the_slow(self, settings):
        original = {"original_max_position_embeddings": 512}
        ratio = self.steps(size=64, **settings, **original) / self.steps(size=64)
        np.testing.assert_allclose((ratio[0], ratio[-1]), (1, 1 / 8))
        assert (np.diff(ratio) <= 1e-12).all()
        assert ((ratio < 0.99) & (ratio > 0.13)).sum() >= 3

    def test_yarn_scales_attention(self):
        settings = DEFAULT | {"rope_type": "yarn", "factor": 8.0}
        for more, right in (
            ({}, 0.1 * math.log(8) + 1),
            ({"mscale": 2.0}, 0.1 * math.log(8) + 1),
            ({"mscale": 2.0, "mscale_all_dim": 1.0},
             (0.2 * math.log(8) + 1) / (0.1 * math.log(8) + 1)),
            ({"attention_factor": 1.5}, 1.5),
        ):  # fmt: skip
            rotary = nn.Rotary(8, 64, settings | more)
            np.testing.assert_allclose(rotary.attention_factor, right)
            np.testing.assert_allclose(rotary.angles(0, 1, LIKE).cos, right)

    def test_angles_are_rounded_as_in_training(self):
        """Product and cosine in float32, as every float32 model was trained: not once."""
        cos, _ = nn.Rotary(64, 9000, DEFAULT).angles(8191, 8192, LIKE.astype(np.float32))
        exact, _ = nn.Rotary(64, 9000, DEFAULT).angles(8191, 8192, LIKE)
        step = np.float32(1) / np.float32(10000) ** np.float32(2 / 64)
        assert abs(cos[0, 1] - np.cos(np.float32(8191) * step)) < 1e-6
        assert 1e-5 < np.abs(cos - exact).max() < 2e-3

    @pytest.mark.parametrize(
        "parameters, message",
        [
            ({"rope_type": "su"}, "rope_type 'su', one of default, linear, dynamic, yarn"),
            ({"rope_type": "mrope", "mrope_section": [1]}, "rope_type 'mrope'"),
            ({"type": ["linear"]}, "rope_type"),
            ({"rope_type": "linear"}, "linear without factor"),
            ({"rope_type": "llama3", "factor": 8.0}, "llama3 without high_freq_factor"),
            ({"rope_type": "longrope"}, "longrope without long_factor"),
            ({"factor": 2.0}, "factor=2.0 is not implemented for default"),
            ({"rope_type": "linear", "factor": 2.0, "beta_fast": 3}, "beta_fast=3 is not impl"),
            ({"rope_type": "linear", "factor": 0}, "factor is 0, a number above 0"),
            ({"rope_type": "linear", "factor": "2"}, "factor is '2', a number above 0"),
            ({"rope_type": "linear", "factor": True}, "factor is True, a number above 0"),
            ({"rope_theta": math.inf}, "rope_theta is inf"),
            ({"rope_theta": -1}, "rope_theta is -1"),
            ({"rope_type": "yarn", "truncate": 1}, "truncate is 1, true or false"),
            ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0},
             "original_max_position_embeddings is 0, a whole number from 1"),
            ({"rope_type": "longrope", **FACTORS, "long_factor": [1.0] * 3},
             r"long_factor is \[1.0, 1.0, 1.0\], a list of 4 numbers"),
            ({"rope_type": "longrope", **FACTORS, "short_factor": 1.0}, "a list of 4 numbers"),
            ({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4, "high_freq_factor": 4},
             "low_freq_factor 4 and high_freq_factor 4, the second must be larger"),
            ({"rope_type": "yarn", "rope_theta": 1.0}, "yarn with rope_theta=1, another number"),
            ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not implemented"),
        ],
    )  # fmt: skip
    def test_what_is_not_known_is_refused(self, parameters, message):
        with pytest.raises(ValueError, match=f"rope: .*{message}"):
            nn.Rotary(8, 64, parameters)

    def test_a_head_has_pairs(self):
        with pytest.raises(ValueError, match="heads of 5 features, an even number from 2"):
            nn.Rotary(5, 64, DEFAULT)
        with pytest.raises(ValueError, match="heads of 2 features, an even number from 4"):
            nn.Rotary(2, 64, {"rope_type": "dynamic", "factor": 2.0})


class TestWindow:
    """attend(window=...) against masks written out."""

    @pytest.mark.parametrize("window", [1, 2, 5, 12, 13, 40])
    @pytest.mark.parametrize("new", [1, 4, 12])
    def test_it_is_a_mask(self, window, new):
        q, k, v = (tensor(2, heads, 12, 6, seed=heads) for heads in (4, 2, 1))
        v = ops.concatenate(v, v, axis=1)

        class Held:
            def update(self, layer, k, v):
                return whole

        whole = k, v
        got = nn.attend(
            q[:, :, -new:], k[:, :, -new:], v[:, :, -new:], cache=Held(), window=window
        ).data
        i, j = np.mgrid[:12, :12]
        mask = ((j <= i) & (j > i - window))[None, None]
        right = ops.scaled_dot_product_attention(q, k, v, mask).data[:, :, -new:]
        np.testing.assert_allclose(got, right, atol=1e-12)

    def test_it_needs_causality_and_no_other_mask(self):
        x, mask = tensor(1, 1, 3, 2), np.ones((1, 1, 3, 3), bool)
        for options in ({"mask": mask}, {"causal": False}):
            with pytest.raises(ValueError, match="a window and dropout need causal"):
                nn.attend(x, x, x, window=2, **options)

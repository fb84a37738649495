"""The Llama family: numbers frozen from transformers, the cache, training."""

import numpy as np
import pytest

from frozen_llama import GRADIENTS, IN_PIECES, LOGITS
from minillm import manual_seed, no_grad, ops
from minillm.arrays import new_generator
from minillm.generation import Cache, Sampler, generate_ids
from minillm.models import Llama, LlamaConfig
from small_llama import CASES, IDS, LENGTH, TARGETS, content, logits, small

PRECISIONS = [("float64", 1e-8), ("float32", 1e-4)]


@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("case", LOGITS)
def test_logits_equal_what_transformers_gave(case, dtype, tolerance):
    got = logits(small(case).astype(dtype))
    assert got.dtype == dtype
    shown = [*got[1, -1, :3], np.linalg.norm(got)]
    np.testing.assert_allclose(shown, LOGITS[case], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
@pytest.mark.parametrize("case", GRADIENTS)
def test_loss_and_gradients_equal_what_transformers_gave(case, dtype, tolerance):
    model = small(case).astype(dtype)
    loss = model.loss(IDS, TARGETS)
    loss.backward()
    norms = [np.linalg.norm(parameter.grad.data) for parameter in model.parameters()]
    np.testing.assert_allclose([loss.item(), *norms], GRADIENTS[case], rtol=tolerance)


def in_pieces(model, ids, pieces):
    cache, place, parts = Cache(2), 0, []
    with no_grad():
        for length in pieces:
            parts.append(model(ids[:, place : place + length], cache).numpy())
            place += length
            assert cache.length == min(place, ids.shape[1])
    return np.concatenate(parts, axis=1)


class TestCache:
    @pytest.mark.parametrize("pieces", [[LENGTH], [1] * LENGTH, [5, 1, 1, 9, 8], [23, 1]])
    @pytest.mark.parametrize("case", CASES)
    def test_a_text_in_pieces_gives_the_same_logits(self, case, pieces):
        model = small(case).astype("float64")
        length = 10 if model.reads_whole else LENGTH  # up to the original positions
        whole = logits(model, IDS[:, :length])
        got = in_pieces(model, IDS[:, :length], pieces)
        np.testing.assert_allclose(got, whole, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("dtype, tolerance", PRECISIONS)
    @pytest.mark.parametrize("case", IN_PIECES)
    def test_angles_that_depend_on_the_length_stay_in_the_cache(self, case, dtype, tolerance):
        model = small(case).astype(dtype)
        assert model.reads_whole
        got = in_pieces(model, IDS, (5, 1, 1, 9, 8))
        shown = [*got[1, -1, :3], np.linalg.norm(got)]
        np.testing.assert_allclose(shown, IN_PIECES[case], rtol=tolerance, atol=tolerance)
        assert np.abs(got - logits(model)).max() > 0.1

    @pytest.mark.parametrize("case, positions", [("llama", 700), ("dynamic", 520)])
    def test_generation_reads_a_long_prompt_as_one_where_that_matters(self, case, positions):
        seen = []

        class Recording(Sampler):
            def pick(self, logits, generator, *rest):
                seen.append(logits)
                return super().pick(logits, generator, *rest)

        model, ids = small(case, max_position_embeddings=positions), np.arange(600) ** 2 % 17
        next(generate_ids(model, ids, Recording(0.0), new_generator(0)))
        np.testing.assert_allclose(seen[0], logits(model, ids[None])[0, -1], rtol=1e-4, atol=1e-4)

    def test_positions_end_where_the_context_ends(self):
        model, cache = small(max_position_embeddings=LENGTH), Cache(2)
        with no_grad():
            model(IDS, cache)
            for ids, known in ((np.zeros((1, LENGTH + 1), int), None), (IDS[:, :1], cache)):
                with pytest.raises(ValueError, match=r"llama: position 24 asked for, .* has 24"):
                    model(ids, known)

    def test_scaling_reaches_further_than_the_original_positions(self):
        for case, context in (("dynamic", 25), ("linear", 160), ("yarn", 40), ("llama3", 40)):
            assert LlamaConfig.from_hf(content(case)).context == context
        yarn = content("yarn") | {"max_position_embeddings": 10}
        assert LlamaConfig.from_hf(yarn).context == 40


class TestWindow:
    def test_a_layer_sees_the_window_and_no_more(self):
        one = {"num_hidden_layers": 1, "sliding_window": 5}
        model, other = small("mistral", **one), IDS.copy()
        other[:, 10] = (other[:, 10] + 1) % 17
        changed = np.abs(logits(model) - logits(model, other)).max(axis=(0, 2))
        assert (changed > 1e-4).tolist() == [10 <= place < 15 for place in range(LENGTH)]

    def test_layers_slide_where_the_configuration_says(self):
        windows = {case: LlamaConfig.from_hf(content(case)).windows for case in CASES}
        assert windows.pop("mistral") == (7, 7)
        assert windows.pop("qwen2, window") == (None, 6)
        assert windows.pop("qwen3, window") == (6, None)
        assert set(windows.values()) == {(None, None)}


class TestTraining:
    @pytest.mark.parametrize("case", ["dynamic", "qwen2, window"])
    def test_recomputation_gives_the_same_bits_with_dropout(self, case):
        gradients = []
        for recompute in (False, True):
            model = small(case, attention_dropout=0.3).train()
            model.recompute = recompute
            manual_seed(5)
            model.loss(IDS, TARGETS).backward()
            gradients.append([parameter.grad.data for parameter in model.parameters()])
        assert all(np.array_equal(a, b) for a, b in zip(*gradients))

    @pytest.mark.parametrize("case", ["llama", "mistral"])
    def test_dropout_that_drops_nothing_changes_nothing(self, case):
        """1 of 2 ** 40 attention weights: the other path through attention, the same gradients."""
        models = [small(case, attention_dropout=p).astype("float64") for p in (0.0, 2.0**-40)]
        for model in models:
            model.train().loss(IDS, TARGETS).backward()
        for one, other in zip(*(model.parameters() for model in models)):
            np.testing.assert_allclose(one.grad.data, other.grad.data, rtol=1e-9, atol=1e-11)

    def test_dropout_acts_on_the_weights_of_attention_in_training_only(self):
        model = small(attention_dropout=0.5)
        assert np.array_equal(logits(model), logits(small()))
        manual_seed(1)
        model.train()
        several = [logits(model)[0, 0] for _ in range(8)]  # one weight of 1: kept twofold or gone
        assert len({row.tobytes() for row in several}) > 2
        assert not np.array_equal(logits(model), logits(model))

    def test_initial_weights(self):
        config = LlamaConfig.from_hf(content("biases") | {"hidden_size": 64, "head_dim": 16})
        model, again, other = Llama(config, 1), Llama(config, 1), Llama(config, 2)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                assert (parameter.data == (1 if "norm" in name else 0)).all(), name
            else:
                std = 0.02 / 2 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                assert abs(parameter.data.std() / std - 1) < 0.1, name
            assert np.array_equal(parameter.data, again.state_dict()[name])
        assert not np.array_equal(model.head.data, other.head.data)


class TestModel:
    @pytest.mark.parametrize("case", ["llama", "tied"])
    def test_loss_and_next_logits_are_those_of_the_logits(self, case):
        model = small(case)
        for reduction in ("mean", "sum", "none"):
            expected = ops.cross_entropy(model(IDS), TARGETS, reduction=reduction).data
            got = model.loss(IDS, TARGETS, reduction=reduction).data
            np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(model.next_logits(IDS).data, logits(model)[:, -1], atol=5e-6)

    def test_what_is_no_batch_of_ids_is_refused(self):
        with pytest.raises(ValueError, match=r"qwen2: ids of shape \(2,\), an array \(B, T\)"):
            logits(small("qwen2"), np.array([1, 2]))

    @pytest.mark.parametrize("case", CASES)
    def test_parameters_are_counted(self, case):
        model = small(case)
        assert model.config.parameter_count == model.parameter_count()

    @pytest.mark.parametrize(
        "kind, sizes, head_dim, tied, count",
        [
            ("llama", (49152, 576, 1536, 30, 9, 3), None, True, 134_515_008),  # SmolLM2-135M
            ("llama", (32000, 2048, 5632, 22, 32, 4), None, False, 1_100_048_384),  # TinyLlama
            ("llama", (128256, 4096, 14336, 32, 32, 8), None, False, 8_030_261_248),  # Llama 3 8B
            ("mistral", (32000, 4096, 14336, 32, 32, 8), None, False, 7_241_732_096),  # 7B
            ("qwen2", (151936, 896, 4864, 24, 14, 2), None, True, 494_032_768),  # Qwen2.5-0.5B
            ("qwen3", (151936, 1024, 3072, 28, 16, 8), 128, True, 596_049_920),  # Qwen3-0.6B
        ],
    )
    def test_published_models_have_the_published_number(self, kind, sizes, head_dim, tied, count):
        description = dict(zip(SIZE_NAMES, sizes)) | {"model_type": kind, "head_dim": head_dim}
        config = LlamaConfig.from_hf(description | {"tie_word_embeddings": tied})
        assert config.parameter_count == count


SIZE_NAMES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)

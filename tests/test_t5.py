"""T5 against numbers of transformers, and what its parts promise."""

import itertools
import json

import numpy as np
import pytest

from minillm import manual_seed, nn, no_grad
from minillm.arrays import new_generator
from minillm.formats import hf, safetensors
from minillm.generation import Cache, EncoderDecoderCache, Sampler, decoding
from minillm.generation.encoder_decoder import generate_ids
from minillm.models import T5, T5Config
from minillm.models.folder import load_model, save_model
from minillm.models.t5 import from_files
from minillm.tokenizers import ByteTokenizer
from small_t5 import IDS, MASK, TARGETS, small

VERSIONS = ("v1.0", "v1.1")
# What transformers 5.24 gives for small(), in float64: the loss, the last logits of the first four
# ids, the norm of every gradient, and what greedy generation gives.
LOSS = {"v1.0": 2.535459927134307, "v1.1": 3.636314071270531}
LOGITS = {
    "v1.0": [[0.218394147611, 0.425367815324, 0.325722274349, 0.0948360183351],
             [0.30839955201, 0.267055953278, -0.0621985849728, 0.104930436266]],
    "v1.1": [[1.0521394626, -1.64048295992, -1.30294624804, 0.781535355203],
             [-0.732451697725, -0.0616161779567, -0.547842056477, 0.374475161936]],
}  # fmt: skip
NORMS = {
    "v1.0": [
        0.906872185698, 0.417077619278, 0.42648291785, 0.349360875265, 0.449116146669,
        0.0373907929518, 0.118734845719, 0.179574916, 0.172270497581, 0.0554578750802,
        0.103946298158, 0.0900840571408, 0.259301933634, 0.249630266446, 0.098709361641,
        0.160795140174, 0.134014598267, 0.0454423000735, 0.0918132072166, 0.288688966165,
        0.398345778416, 0.384047671104, 0.359412751342, 0.0390707734075, 0.177282980325,
        0.185141352122, 0.18117644275, 0.290951117383, 0.251517213832, 0.0350046424794,
        0.225831184055, 0.189494025048, 0.0592822059285, 0.245416498003, 0.154497223917,
        0.151049760204, 0.134256758153, 0.0891106124186, 0.0682950999402, 0.0822606874318,
        0.118164402214, 0.130995712242, 0.0110790714865, 0.0697526414109, 0.0601266595902,
        0.0145970166019, 0.0638451975053,
    ],
    "v1.1": [
        3.31738369682, 2.54944489511, 2.1779461615, 1.10044954059, 1.11970627788, 0.173161598429,
        0.577672525166, 0.705513428537, 0.511192682013, 0.701812571032, 0.19593203327,
        0.345964133309, 0.372682580805, 0.495589059657, 0.408198055716, 0.114723248036,
        0.471147595592, 0.348481555957, 0.518626493601, 0.145817442793, 0.216599259917,
        0.491627508665, 0.43621168558, 0.900608796281, 0.994696119702, 0.0367854458136,
        0.247782683266, 0.681853573352, 0.567573134015, 0.648189027491, 0.599410404212,
        0.197957569708, 0.567825833639, 0.368296102507, 0.70770713324, 0.203158894893,
        0.541804473433, 1.28458493342,
    ],
}  # fmt: skip
GREEDY = {"v1.0": [[12, 7, 12, 12, 3, 9, 2, 12, 3, 2], [12] * 10], "v1.1": [[8] * 10, [10] * 10]}


def logits(model, *inputs, **options):
    with no_grad():
        return model(*inputs, **options).numpy()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-4)])
class TestFrozen:
    def test_loss_logits_and_gradients_equal_what_transformers_gave(
        self, version, dtype, tolerance
    ):
        model = small(version).astype(dtype)
        loss = model.loss(IDS, TARGETS, MASK)
        loss.backward()
        np.testing.assert_allclose(loss.item(), LOSS[version], rtol=tolerance)
        norms = [np.linalg.norm(parameter.grad.data) for parameter in model.parameters()]
        np.testing.assert_allclose(norms, NORMS[version], rtol=tolerance)
        last = logits(model, IDS, model.shift_right(TARGETS), MASK)[:, -1, :4]
        np.testing.assert_allclose(last, LOGITS[version], rtol=tolerance)

    def test_recomputing_changes_nothing(self, version, dtype, tolerance):
        gradients = []
        for recompute in (False, True):
            model = small(version, dropout_rate=0.3).astype(dtype).train()
            model.recompute = recompute
            manual_seed(5)
            model.loss(IDS, TARGETS, MASK).backward()
            gradients.append([parameter.grad.data for parameter in model.parameters()])
        for one, other in zip(*gradients):  # layers add to the source's gradient in another order
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(one).max())

    def test_greedy_generation_is_that_of_transformers(self, version, dtype, tolerance):
        model = small(version).astype(dtype)
        for use_cache in (True, False):
            got = generate_ids(model, IDS, mask=MASK, max_tokens=10, use_cache=use_cache)
            assert got == GREEDY[version]


class TestBuckets:
    """Rows of T5's table: 32 buckets, distances up to 128."""

    def row(self, query, keys, bidirectional):
        return nn.relative_position_bucket(
            np.arange(keys) - query, bidirectional=bidirectional
        ).tolist()

    def test_both_ways(self):
        assert self.row(0, 10, True) == [0, 17, 18, 19, 20, 21, 22, 23, 24, 24]
        assert self.row(9, 10, True) == [8, 8, 7, 6, 5, 4, 3, 2, 1, 0]
        assert self.row(5000, 1, True) == [15]
        assert self.row(-5000, 1, True) == [31]

    def test_to_the_past(self):
        assert self.row(9, 12, False) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]
        assert self.row(127, 1, False) == [31]
        assert self.row(5000, 1, False) == [31]
        assert self.row(16, 1, False) == [16]

    @pytest.mark.parametrize(
        "buckets, distance, bidirectional, message",
        [
            (3, 128, True, "3 buckets up to a distance of 128, at least 4 buckets"),
            (1, 128, False, "at least 2 buckets"),
            (32, 8, True, "32 buckets up to a distance of 8, .* a distance above 8"),
            (32, 16, False, "a distance above 16 are needed"),
        ],
    )
    def test_what_does_not_fit(self, buckets, distance, bidirectional, message):
        with pytest.raises(ValueError, match=f"relative_position_bucket: .*{message}"):
            nn.relative_position_bucket(
                np.arange(3),
                bidirectional=bidirectional,
                num_buckets=buckets,
                max_distance=distance,
            )

    def test_a_bias_with_an_offset_is_the_last_rows_of_the_whole(self):
        bias = nn.RelativePositionBias(3, 8, 6, bidirectional=False)
        whole = bias(9, 9).data
        assert whole.shape == (1, 3, 9, 9)
        assert np.array_equal(bias(2, 9, 7).data, whole[:, :, 7:])
        assert np.array_equal(whole[0, 1, 5, 3], bias.weight.data[2, 1])


@pytest.mark.parametrize("version", VERSIONS)
class TestMasks:
    def test_a_padded_row_gives_what_the_row_alone_gives(self, version):
        model = small(version).astype("float64")
        decoder_ids = model.shift_right(TARGETS)
        padded, other = logits(model, IDS, decoder_ids, MASK), IDS.copy()
        other[MASK == 0] = 7
        assert np.array_equal(logits(model, other, decoder_ids, MASK), padded)
        alone = logits(model, IDS[1:, :5], decoder_ids[1:])
        np.testing.assert_allclose(padded[1:], alone, rtol=1e-12, atol=1e-12)
        assert np.abs(logits(model, IDS, decoder_ids)[1:] - alone).max() > 1e-3

    def test_padding_before_a_row_counts_as_little(self, version):
        model = small(version).astype("float64")
        left = np.array([[4, 4, *IDS[1, :5]]])
        alone = logits(model, IDS[1:, :5], TARGETS[:1, :3])
        got = logits(model, left, TARGETS[:1, :3], np.array([[0, 0, 1, 1, 1, 1, 1]]))
        np.testing.assert_allclose(got, alone, rtol=1e-12, atol=1e-12)

    def test_masks_of_any_kind(self, version):
        model = small(version)
        right = logits(model, IDS, mask=MASK)
        for mask in (MASK.astype(bool), MASK.astype("float32"), MASK.tolist()):
            assert np.array_equal(logits(model, IDS, mask=mask), right)
        whole = logits(model, IDS)
        assert np.array_equal(logits(model, IDS, mask=np.ones(IDS.shape)), whole)

    def test_a_later_target_changes_nothing_before_it(self, version):
        model, decoder_ids = small(version), np.array([[1, 2, 3, 4]] * 2)
        other = decoder_ids.copy()
        other[:, 2] = 9
        before, after = logits(model, IDS, decoder_ids), logits(model, IDS, other)
        np.testing.assert_allclose(before[:, :2], after[:, :2], atol=1e-6)
        assert np.abs(before[:, 2:] - after[:, 2:]).max() > 1e-3


class TestDecoding:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("steps", [[1] * 7, [3, 4], [7], [2, 1, 4]])
    def test_by_steps_equals_all_at_once(self, version, steps):
        model = small(version).astype("float64")
        decoder_ids = model.shift_right(TARGETS)
        cache = EncoderDecoderCache(model.config.n_layer)
        with no_grad():
            memory = model.encode(IDS, MASK)
            parts = [
                model.decode(decoder_ids[:, end - step : end], memory, MASK, cache).numpy()
                for step, end in zip(steps, np.cumsum(steps))
            ]
        right = logits(model, IDS, decoder_ids, MASK)
        np.testing.assert_allclose(np.concatenate(parts, axis=1), right, rtol=1e-11, atol=1e-12)
        assert cache.length == 7

    def test_keys_of_the_source_are_computed_once(self):
        model, cache, calls = small(), EncoderDecoderCache(2), []
        with no_grad():
            memory = model.encode(IDS)
            for step in range(3):
                model.decode(TARGETS[:, step : step + 1], memory, None, cache)
            for layer in (0, 1):
                k, v = cache.memory(layer, lambda: calls.append(0))
                assert k.shape == v.shape == (2, 3, 9, 5)
        assert not calls
        assert cache.nbytes == 2 * (2 * 2 * 3 * 32 * 5 + 2 * 2 * 3 * 9 * 5) * 4
        cache.clear()
        assert cache.length == 0
        cache.memory(0, lambda: (calls.append(0) or k, v))
        assert calls == [0]

    def test_what_cannot_be_cached(self):
        model = small()
        memory = model.encode(IDS)
        with pytest.raises(RuntimeError, match="cache: keys and values require a gradient"):
            model.decode(TARGETS[:, :1], memory, None, EncoderDecoderCache(2))
        with pytest.raises(TypeError, match="t5: a Cache keeps nothing of the source"):
            model.decode(TARGETS[:, :1], memory, None, Cache(2))
        cache = EncoderDecoderCache(1)
        key = nn.Parameter(np.ones((1, 1, 1, 1), np.float32))
        with pytest.raises(RuntimeError, match="cache: keys and values require a gradient"):
            cache.memory(0, lambda: (key, key))

    def test_a_target_ends_before_the_end_token(self):
        both = generate_ids(small(eos_token_id=3), IDS, mask=MASK, max_tokens=10)
        assert both == [[12, 7, 12, 12], [12] * 10]
        both = generate_ids(small(eos_token_id=(7, 12)), IDS, mask=MASK, max_tokens=10)
        assert both == [[], []]
        assert generate_ids(small(eos_token_id=None), IDS, max_tokens=0) == [[], []]
        alone = generate_ids(small(eos_token_id=3), IDS[1:, :5], max_tokens=4)
        assert alone == [[12] * 4]

    def test_ids_the_tokenizer_lacks_are_never_chosen(self):
        got = generate_ids(small(), IDS, mask=MASK, max_tokens=5, vocab_size=7)
        assert max(max(row) for row in got) < 7

    def test_drawing_one_target(self):
        model = small().astype("float64")

        def drawn(count, seed, temperature=1.0):
            ids = decoding.generate_ids(
                model, [], Sampler(temperature), new_generator(seed), source=IDS[0]
            )
            return list(itertools.islice(ids, count))

        assert drawn(10, 0, 0.0) == GREEDY["v1.0"][0]
        targets = [drawn(5, seed) for seed in (0, 0, 1, 2)]
        assert targets[0] == targets[1] != targets[2] != targets[3]
        first = [drawn(1, seed)[0] for seed in range(300)]
        right = np.exp(logits(model, IDS[:1])[0, 0])
        share = np.bincount(first, minlength=13) / 300
        np.testing.assert_allclose(share, right / right.sum(), atol=0.08)

    def test_generation_that_cannot_be(self):
        model = small()
        with pytest.raises(ValueError, match="max-tokens: -1, 0 or more is needed"):
            generate_ids(model, IDS, max_tokens=-1)
        with no_grad():
            model.lm_head.weight[2] = np.nan
        with pytest.raises(ValueError, match="sampling: the logits hold NaN"):
            generate_ids(model, IDS)

    def test_dropout_does_not_act(self):
        got = generate_ids(small(dropout_rate=0.5).train(), IDS, mask=MASK, max_tokens=10)
        assert got == GREEDY["v1.0"]


class TestModel:
    def test_targets_are_shifted_right(self):
        model = small()  # starts with 2, pads with 3
        assert model.shift_right(TARGETS).tolist() == [
            [2, 5, 12, 0, 3, 7, 3], [2, 2, 9, 11, 4, 0, 3]
        ]  # fmt: skip
        assert TARGETS[0, 3] == -100

    def test_without_decoder_ids_it_gives_the_first_token(self):
        model = small()
        first = logits(model, IDS, np.array([[2], [2]]), MASK)
        assert np.array_equal(logits(model, IDS, mask=MASK), first)
        with no_grad():
            got = model.next_logits(IDS, mask=MASK).data
        np.testing.assert_allclose(got, first[:, 0], rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_dropout_keeps_its_places(self, version):
        """One that drops nothing that is seen, 1 of 2 ** 24 elements, and one that drops much."""
        plain, rare, much = (small(version, dropout_rate=p).train() for p in (0.0, 2.0**-40, 0.3))
        losses = [model.loss(IDS, TARGETS, MASK).item() for model in (plain, rare, much)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
        assert abs(losses[2] / losses[0] - 1) > 1e-3
        assert much.eval().loss(IDS, TARGETS, MASK).item() == losses[0]

    @pytest.mark.parametrize("version", VERSIONS)
    def test_loss_is_the_cross_entropy_of_the_logits(self, version):
        model = small(version).astype("float64")
        scores = logits(model, IDS, model.shift_right(TARGETS))
        scores = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
        right = -np.take_along_axis(scores, np.maximum(TARGETS, 0)[..., None], axis=2)[..., 0]
        right[TARGETS == -100] = 0
        np.testing.assert_allclose(model.loss(IDS, TARGETS, reduction="none").data, right)
        np.testing.assert_allclose(model.loss(IDS, TARGETS).item(), right.sum() / 12)

    def test_tied_and_own_heads(self):
        tied, own = small("v1.0"), small("v1.1")
        assert tied.lm_head.weight is tied.shared.weight
        assert "lm_head.weight" not in tied.state_dict()
        assert own.lm_head.weight is not own.shared.weight
        with no_grad():  # outputs of the tied model are scaled
            memory = tied.encode(IDS)
            plain = tied.decoder(tied.shared(IDS), tied.decoder.bias(9, 0), memory)
            scaled = tied.features_of(IDS, memory, None, None)
        np.testing.assert_allclose(scaled.data * 12**0.5, plain.data, rtol=1e-6)

    def test_initial_weights(self):
        config = T5Config(vocab_size=200, d_model=64, d_kv=9, d_ff=300, num_layers=2, num_heads=8,
                          initializer_factor=0.5, tie_word_embeddings=False)  # fmt: skip
        model, again, other = T5(config, 1), T5(config, 1), T5(config, 2)
        stds = {"shared": 1, "lm_head": 1, "q": (64 * 9) ** -0.5, "o": 72**-0.5, "wo": 300**-0.5}
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                assert (parameter.data == 0.5).all(), name
            else:
                std = 0.5 * stds.get(name.split(".")[-2], 1 / 8)
                assert abs(parameter.data.std() / std - 1) < 0.15, name
            assert np.array_equal(parameter.data, again.state_dict()[name])
        assert not np.array_equal(model.shared.weight.data, other.shared.weight.data)

    @pytest.mark.parametrize(
        "call, message",
        [
            (lambda m: m(IDS[0]), r"ids of shape \(9,\), an array \(B, T\)"),
            (lambda m: m(IDS, IDS[0]), r"ids of shape \(9,\)"),
            (lambda m: m(IDS, IDS[:1]), "2 sources and 1 targets"),
            (lambda m: m(IDS, mask=MASK[:1]), r"mask of shape \(1, 9\) for ids \(2, 9\)"),
            (lambda m: m(IDS, mask=MASK * 2), "mask holds other values than 0 and 1"),
            (lambda m: m.decode(IDS, m.encode(IDS), MASK[:, 1:]), r"mask of shape \(2, 8\)"),
            (lambda m: m.loss(IDS, TARGETS[0]), r"ids of shape \(7,\)"),
        ],
    )
    def test_what_cannot_be_computed(self, call, message):
        with pytest.raises(ValueError, match=f"t5: .*{message}"):
            call(small())


class TestConfig:
    def test_it_comes_back_from_config_json(self):
        for config in (
            small("v1.0", dropout_rate=0.25, eos_token_id=(1, 4)).config,
            small("v1.1", eos_token_id=None, initializer_factor=0.5).config,
        ):
            assert T5Config.from_hf(json.loads(json.dumps(config.to_hf()))) == config

    @pytest.mark.parametrize(
        "options, count",
        [
            ({}, 60_506_624),  # t5-small
            ({"d_ff": 1024, "num_layers": 8, "num_heads": 6, "tie_word_embeddings": False,
              "feed_forward_proj": "gated-gelu"}, 76_961_152),  # flan-t5-small
        ],
    )  # fmt: skip
    def test_published_sizes(self, options, count):
        assert T5Config(**options).parameter_count == count

    @pytest.mark.parametrize("version", VERSIONS)
    def test_parameters_are_counted(self, version):
        model = small(version)
        assert model.config.parameter_count == model.parameter_count()

    def test_what_config_json_leaves_out_is_as_in_transformers(self):
        assert T5Config.from_hf({"model_type": "t5"}) == T5Config()
        content = {"vocab_size": 9, "pad_token_id": 4, "tie_word_embeddings": False,
                   "num_layers": 3, "num_decoder_layers": None}  # fmt: skip
        config = T5Config.from_hf(content)
        assert (config.n_layer, config.decoder_start_token_id) == (3, 4)
        assert not config.scale_decoder_outputs and config.own_head

    def test_version_5_of_transformers_ties_in_name_only(self):
        """It writes tie_word_embeddings=true for all, and scale_decoder_outputs beside it."""
        content = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
        config = T5Config.from_hf(content)
        assert config.own_head
        assert config.to_hf()["tie_word_embeddings"] is False

    @pytest.mark.parametrize("proj, activation, gated", [
        ("relu", "relu", False), ("gelu", "gelu", False), ("gated-gelu", "gelu_new", True),
        ("gated-silu", "silu", True), ("gelu_new", "gelu_new", False),
    ])  # fmt: skip
    def test_feed_forward_kinds(self, proj, activation, gated):
        config = T5Config(feed_forward_proj=proj)
        assert (config.activation, config.gated) == (activation, gated)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"num_layers": 0}, "num_layers is 0, a whole number"),
            ({"d_kv": "64"}, "d_kv is '64', a whole number"),
            ({"d_model": None}, "d_model is None, a whole number"),
            ({"num_heads": True}, "num_heads is True, a whole number"),
            ({"dropout_rate": 1.0}, "dropout_rate is 1.0, a number of at least 0 below 1.0"),
            ({"layer_norm_epsilon": "1e-6"}, "layer_norm_epsilon is '1e-6'"),
            ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes', a bool is needed"),
            ({"feed_forward_proj": "gated-mish"}, "feed_forward_proj 'gated-mish', one of"),
            ({"feed_forward_proj": None}, "feed_forward_proj None, one of"),
            ({"dense_act_fn": "gelu"}, "dense_act_fn='gelu' with feed_forward_proj='relu' is not"),
            ({"is_gated_act": True}, "is_gated_act=True with feed_forward_proj='relu' is not"),
            ({"relative_attention_num_buckets": 3}, "3 buckets up to a distance of 6"),
            ({"relative_attention_max_distance": 2}, "a distance of 2"),
            ({"decoder_start_token_id": 13}, "decoder_start_token_id is 13, 0 <= id < 13"),
            ({"eos_token_id": [1, 99]}, "eos_token_id is 99"),
            ({"pad_token_id": None}, "pad_token_id is None"),
            ({"is_encoder_decoder": False}, "is_encoder_decoder=False is not implemented"),
            ({"is_decoder": True}, "is_decoder=True is not implemented"),
            ({"tie_encoder_decoder": True}, "tie_encoder_decoder=True is not implemented"),
            ({"quantization_config": {"load_in_8bit": True}}, "quantization_config={.* is not"),
            (
                {"architectures": ["T5EncoderModel"]},
                r"architectures=\['T5EncoderModel'\] is not impl",
            ),
        ],
    )
    def test_what_is_not_implemented_is_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            T5Config.from_hf(small().config.to_hf() | change)

    @pytest.mark.parametrize("version", VERSIONS)
    def test_whatever_stands_there_is_refused_in_one_line(self, version):
        content = small(version).config.to_hf()
        for key in (*content, "dense_act_fn", "is_gated_act", "is_decoder", "quantization_config"):
            for value in (None, True, -1, 0.5, float("nan"), "", "x", [], [[1]], [None], {"a": 1}):
                try:
                    T5Config.from_hf(content | {key: value})
                except ValueError as error:
                    assert str(error).startswith(("t5: ", "relative_position_bucket: ")), key
                    assert len(str(error)) < 250 and "\n" not in str(error), key


class TestFiles:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_what_is_saved_comes_back(self, version, tmp_path, recwarn):
        model = small(version)
        save_model(tmp_path, model)
        again = load_model(tmp_path)
        assert np.array_equal(logits(again, IDS), logits(model, IDS))
        assert again.config == model.config and not again.training
        assert not recwarn.list
        arrays, metadata = safetensors.read(tmp_path / "model.safetensors")
        assert arrays.keys() == model.state_dict().keys()
        assert metadata["format"] == "pt" and hf.REFERENCE in metadata

    def test_others_are_told_how_targets_begin_and_end(self, tmp_path):
        save_model(tmp_path, small(vocab_size=300, eos_token_id=(256, 1)), ByteTokenizer())
        told = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
        assert told == {"decoder_start_token_id": 2, "eos_token_id": [256, 1], "pad_token_id": 3}

    @pytest.mark.parametrize(
        "change",
        [
            lambda a: a.update({"encoder.embed_tokens.weight": a["shared.weight"],
                                "decoder.embed_tokens.weight": a["shared.weight"],
                                "lm_head.weight": a["shared.weight"]}),
            lambda a: a.update({"encoder.embed_tokens.weight": a.pop("shared.weight")}),
            lambda a: a.update({"lm_head.weight": a.pop("shared.weight")}),
            lambda a: a.update({"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias"
                                ".weight": np.ones((8, 3))}),
        ],
        ids=["all twins", "encoder's only", "head only", "unused bias"],
    )  # fmt: skip
    def test_variants_that_mean_the_same(self, change, recwarn):
        model = small()
        arrays = dict(model.state_dict())
        change(arrays)
        again = T5(model.config).eval()
        again.load_state_dict(from_files(arrays, model.config))
        assert np.array_equal(logits(again, IDS), logits(model, IDS))
        assert not recwarn.list

    def test_a_twin_that_differs_is_named(self):
        arrays = dict(small().state_dict())
        arrays["lm_head.weight"] = arrays["shared.weight"] + np.float32(0.5)
        with pytest.warns(UserWarning, match=r"lm_head.weight and shared.weight differ by up to"):
            from_files(arrays, small().config)

    def test_a_head_that_transformers_5_left_out(self):
        model = small("v1.1")
        arrays = dict(model.state_dict())
        del arrays["lm_head.weight"]
        content = model.config.to_hf()
        tied = T5Config.from_hf(content | {"tie_word_embeddings": True})
        state = from_files(arrays, tied)
        assert state["lm_head.weight"] is arrays["shared.weight"]
        with pytest.raises(ValueError, match=r"missing lm_head\.weight"):
            model.load_state_dict(from_files(arrays, T5Config.from_hf(content)))

    def test_weights_of_another_model_are_refused(self):
        model = small()
        arrays = small(feed_forward_proj="gated-relu").state_dict()
        with pytest.raises(ValueError, match=r"missing .*DenseReluDense\.wi\.weight"):
            model.load_state_dict(from_files(arrays, model.config))

    def test_the_published_dummy_gives_what_transformers_gives(self, shared_data):
        model = load_model(shared_data / "models" / "t5-dummy")
        ids, decoder_ids = np.arange(40)[None] * 7 % 32, np.arange(12)[None] * 5 % 32
        right = [-0.00410377890658, 0.000222055050775, -0.000463753183496, -0.000197122696292,
                 0.00834208337114, 0.00213835085733]  # fmt: skip
        for dtype, tolerance in (("float32", 1e-7), ("float64", 1e-13)):
            got = logits(model.astype(dtype), ids, decoder_ids)
            np.testing.assert_allclose(got[0, -1, :6], right, rtol=0, atol=tolerance)
            np.testing.assert_allclose(np.abs(got).sum(), 1.179876598850605, rtol=1e-6)

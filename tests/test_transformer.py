"""The Transformer of 2017 against numbers of torch.nn.Transformer, and what its parts promise."""

import json

import numpy as np
import pytest

from minillm import Tensor, manual_seed, nn, no_grad
from minillm.generation import EncoderDecoderCache
from minillm.generation.encoder_decoder import generate_ids
from minillm.models import Transformer, TransformerConfig
from minillm.models.folder import load_model, save_model
from minillm.models.transformer import from_files
from small_transformer import IDS, KINDS, MASK, TARGETS, small

# What torch.nn.Transformer (PyTorch 2.13) gives for small(), in float64: the loss, the last logits
# of the first four ids, the norm of every gradient, and the most probable tokens one by one.
LOSS = {"paper": 3.390870360050963, "norm first": 3.2532553378217774}
LOGITS = {
    "paper": [[0.818702756754, -0.734951340421, -1.98209106667, 1.37279639568],
              [1.29116830299, -3.4946516538, -0.636887879115, 0.130574305709]],
    "norm first": [[-0.0405862685134, -0.0696433006939, -1.1107239919, -2.08114353817],
                   [-1.22131595304, -0.0263397903914, -1.24877606988, -0.584803399346]],
}  # fmt: skip
NORMS = {
    "paper": [
        1.85505840249, 1.09177084611, 0.320761003966, 0.801793278325, 0.194158665279,
        0.815341887524, 0.277070728665, 0.781220270217, 0.271226157352, 0.25865750526,
        0.447866689924, 0.285492077852, 0.35583149, 0.988277008229, 0.268082370005, 0.682484919832,
        0.205111271476, 1.08897870785, 0.346404648361, 1.18019269306, 0.316096608178,
        0.344993964757, 0.425520797282, 0.445747682518, 0.603054253876, 0.368585639743,
        0.445475331255, 0.448329045854, 0.126424127753, 0.424505519776, 0.098341749641,
        0.700958381206, 0.204080786413, 0.585538544698, 0.140253686179, 0.334986764162,
        0.149945759727, 0.420430717103, 0.190914947986, 0.170089114685, 0.175413444693,
        0.280777043184, 0.259434730324, 0.209249623255, 0.176453014458, 0.554762255425,
        0.135458308724, 0.640625024703, 0.117469214276, 1.00717987705, 0.257302344615,
        1.16538223728, 0.227363995614, 1.04246544189, 0.246483178869, 0.789813973337,
        0.286945061783, 0.370223350509, 0.235939197683, 0.497782162869, 0.412597869351,
        0.642007600374, 0.520545816804, 0.636483892366, 0.540486759854, 0.370426094598,
    ],
    "norm first": [
        0.277364980175, 0.868700830182, 0.196026703769, 0.12900736615, 0.165702117852,
        0.0859446749189, 0.129356101718, 0.0338817377109, 0.26139474904, 0.0687783304292,
        0.104010835629, 0.164184627002, 0.0468639956363, 0.0458148544341, 0.256874380707,
        0.098400102919, 0.22762331816, 0.0617188969057, 0.170121993565, 0.0387841944981,
        0.196184388766, 0.053336691647, 0.127146529775, 0.131025947042, 0.0414368738781,
        0.0514658354409, 0.133293356484, 0.217484634188, 0.765959049685, 0.191996993376,
        0.358347048189, 0.123201752123, 0.571106548701, 0.161526576038, 0.666874644063,
        0.126699237618, 0.306251162218, 0.102664456083, 0.3125553328, 0.13185943265,
        0.218406675366, 0.261766896442, 0.0265332637843, 0.0178782385745, 0.0633958840365,
        0.106522531294, 1.08001041597, 0.570255526639, 1.70825119194, 0.475956371417,
    ],
}  # fmt: skip
GREEDY = {
    "paper": [[8] * 8, [11, 11, 11, 11, 11, 11, 11, 12]],
    "norm first": [[5, 10, 5, 5, 5, 10, 5, 10], [5, 10, 5, 0, 5, 4, 5, 4]],
}


def logits(model, *inputs, **options):
    with no_grad():
        return model(*inputs, **options).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 2e-4)])
class TestFrozen:
    def test_loss_logits_and_gradients_equal_what_torch_gave(self, kind, dtype, tolerance):
        for recompute in (False, True):
            model = small(kind).astype(dtype)
            model.recompute = recompute
            loss = model.loss(IDS, TARGETS, MASK)
            loss.backward()
            np.testing.assert_allclose(loss.item(), LOSS[kind], rtol=tolerance)
            norms = [np.linalg.norm(parameter.grad.data) for parameter in model.parameters()]
            np.testing.assert_allclose(norms, NORMS[kind], rtol=tolerance)
        last = logits(model, IDS, model.shift_right(TARGETS), MASK)[:, -1, :4]
        np.testing.assert_allclose(last, LOGITS[kind], rtol=tolerance, atol=tolerance)

    def test_greedy_generation(self, kind, dtype, tolerance):
        model = small(kind, eos_token_id=None).astype(dtype)
        for use_cache in (True, False):
            got = generate_ids(model, IDS, mask=MASK, max_tokens=8, use_cache=use_cache)
            assert got == GREEDY[kind]


@pytest.mark.parametrize("kind", KINDS)
class TestModel:
    def test_a_padded_row_gives_what_the_row_alone_gives(self, kind):
        model = small(kind).astype("float64")
        decoder_ids = model.shift_right(TARGETS)
        padded, other = logits(model, IDS, decoder_ids, MASK), IDS.copy()
        other[MASK == 0] = 7
        assert np.array_equal(logits(model, other, decoder_ids, MASK), padded)
        alone = logits(model, IDS[1:, :5], decoder_ids[1:])
        np.testing.assert_allclose(padded[1:], alone, rtol=1e-11, atol=1e-12)
        assert np.abs(logits(model, IDS, decoder_ids)[1:] - alone).max() > 1e-3

    @pytest.mark.parametrize("steps", [[1] * 7, [3, 4], [2, 1, 4]])
    def test_by_steps_equals_all_at_once(self, kind, steps):
        model = small(kind).astype("float64")
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

    def test_a_later_target_changes_nothing_before_it(self, kind):
        model, decoder_ids = small(kind), np.array([[1, 2, 3, 4]] * 2)
        other = decoder_ids.copy()
        other[:, 2] = 9
        before, after = logits(model, IDS, decoder_ids), logits(model, IDS, other)
        np.testing.assert_allclose(before[:, :2], after[:, :2], atol=1e-5)
        assert np.abs(before[:, 2:] - after[:, 2:]).max() > 1e-3

    def test_dropout_keeps_its_places(self, kind):
        """One that drops nothing that is seen, 1 of 2 ** 24 elements, and one that drops much."""
        manual_seed(0)
        plain, rare, much = (small(kind, dropout=p).train() for p in (0.0, 2.0**-40, 0.3))
        losses = [model.loss(IDS, TARGETS, MASK).item() for model in (plain, rare, much)]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
        assert abs(losses[2] / losses[0] - 1) > 1e-3

    def test_parameters_are_counted(self, kind):
        model = small(kind)
        assert model.config.parameter_count == model.parameter_count()

    def test_what_is_saved_comes_back(self, kind, tmp_path, recwarn):
        model = small(kind)
        save_model(tmp_path, model)
        again = load_model(tmp_path)
        assert np.array_equal(logits(again, IDS), logits(model, IDS))
        assert again.config == model.config and not again.training
        assert not recwarn.list

    def test_it_learns(self, kind):
        """Plain gradient descent on one batch."""
        model, losses = Transformer(small(kind).config), []
        for _ in range(30):
            model.zero_grad()
            loss = model.loss(IDS, TARGETS, MASK)
            loss.backward()
            losses.append(loss.item())
            with no_grad():
                for parameter in model.parameters():
                    parameter.copy_(parameter.data - 0.1 * parameter.grad.data)
        assert losses[-1] < 0.5 * losses[0]


def test_weights_that_are_shared_are_one():
    model = small("paper")
    assert model.output.weight is model.target_embeddings.weight is model.source_embeddings.weight
    state = model.state_dict()
    assert [name for name in state if not name.startswith(("encoder", "decoder"))] == [
        "source_embeddings.weight",
        "output.bias",
    ]
    copies = state | {"output.weight": state["source_embeddings.weight"],
                      "target_embeddings.weight": state["source_embeddings.weight"]}  # fmt: skip
    assert from_files(copies, model.config).keys() == state.keys()
    del copies["source_embeddings.weight"]
    assert from_files(copies, model.config).keys() == state.keys()


def test_initial_weights():
    config = TransformerConfig(vocab_size=300, d_model=64, num_encoder_layers=1,
                               num_decoder_layers=1, dim_feedforward=128)  # fmt: skip
    model, again, other = Transformer(config, 1), Transformer(config, 1), Transformer(config, 2)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter.data == ("norm" in name and name.endswith("weight"))).all(), name
        elif name.endswith("embeddings.weight"):
            assert abs(parameter.data.std() * 8 - 1) < 0.05, name
        else:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.97 * bound < np.abs(parameter.data).max() < bound, name
        assert np.array_equal(parameter.data, again.state_dict()[name])
    assert not np.array_equal(model.output.weight.data, other.output.weight.data)


class TestPositions:
    """Values from the formulas, by hand."""

    def test_sines_and_cosines_in_turn(self):
        table = nn.sinusoidal_positions(np.array([0, 1, 7]), 4)
        assert table[0].tolist() == [0, 1, 0, 1]
        np.testing.assert_allclose(table[1], [0.841470985, 0.540302306, 0.009999833, 0.999950000])
        np.testing.assert_allclose(table[2], [0.656986599, 0.753902254, 0.069942847, 0.997551000])

    def test_halves(self):
        table = nn.sinusoidal_positions(np.array([1]), 6, "halves")
        right = [0.841470985, 0.009999833, 1e-4, 0.540302306, 0.99995, 1 - 5e-9]
        np.testing.assert_allclose(table[0], right, rtol=1e-7)

    def test_what_is_refused(self):
        for width, layout in ((5, "interleaved"), (2, "halves"), (0, "interleaved")):
            with pytest.raises(ValueError, match=f"sinusoidal_positions: width {width}, an even"):
                nn.sinusoidal_positions(np.arange(2), width, layout)
        with pytest.raises(ValueError, match="'learned', one of interleaved, halves is needed"):
            nn.sinusoidal_positions(np.arange(2), 4, "learned")


class TestConfig:
    def test_it_comes_back_from_config_json(self):
        for kind, options in (("paper", {"eos_token_id": (2, 5)}), ("norm first", {})):
            config = small(kind, **options).config
            assert TransformerConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config

    def test_defaults_are_the_papers(self):
        config = TransformerConfig.from_hf({"model_type": "transformer", "vocab_size": 37000})
        assert config == TransformerConfig(vocab_size=37000)
        assert (config.d_model, config.nhead, config.dim_feedforward) == (512, 8, 2048)
        assert not config.norm_first and not config.final_norm
        assert TransformerConfig(9, norm_first=True).final_norm

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"vocab_size": 0}, "vocab_size is 0, a whole number from 1"),
            ({"nhead": 5}, "5 heads do not divide the width 12"),
            ({"d_model": 9, "nhead": 3}, "width 9, an even one"),
            ({"dim_feedforward": 2.5}, "dim_feedforward is 2.5"),
            ({"dropout": 1.0}, "dropout is 1.0, a number of at least 0 below 1.0"),
            ({"norm_first": 1}, "norm_first is 1, a bool is needed"),
            ({"activation": "gelu_new"}, "activation 'gelu_new', one of gelu, gelu_tanh"),
            ({"positions": "learned"}, "'learned', one of interleaved, halves"),
            ({"first_position": -1}, "first_position is -1"),
            ({"target_vocab_size": 11}, "vocabularies of 13 and 11 share one embedding"),
            ({"decoder_start_token_id": 13}, "decoder_start_token_id is 13, 0 <= id < 13"),
            ({"eos_token_id": [1, 99]}, "eos_token_id is 99"),
            ({"relative_attention": True}, "relative_attention in config.json is not known"),
        ],
    )
    def test_what_is_not_implemented_is_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            TransformerConfig.from_hf(small().config.to_hf() | change)

    @pytest.mark.parametrize("kind", KINDS)
    def test_whatever_stands_there_is_refused_in_one_line(self, kind):
        content = small(kind).config.to_hf()
        for key in content:
            for value in (None, True, -1, 0.5, float("nan"), "", "x", [], [[1]], [None], {"a": 1}):
                try:
                    TransformerConfig.from_hf(content | {key: value})
                except ValueError as error:
                    assert str(error).startswith(("transformer: ", "sinusoidal_positions: ")), key
                    assert len(str(error)) < 250 and "\n" not in str(error), key

    def test_a_missing_size_is_named(self):
        with pytest.raises(ValueError, match=r"transformer: config\.json has no 'vocab_size'"):
            TransformerConfig.from_hf({"model_type": "transformer"})


class TestMultiheadAttention:
    """The module alone; its numbers are those of the model above."""

    def test_one_formula_whatever_the_way(self):
        """All at once, with a mask that hides nothing, and on itself as the memory."""
        module, x = nn.MultiheadAttention(12, 3), Tensor(np.random.default_rng(1).normal(
            size=(2, 5, 12)).astype("float32"))  # fmt: skip
        mask = np.ones((2, 1, 1, 5), bool)
        right = module(x).data
        np.testing.assert_allclose(module(x, mask=mask).data, right, atol=1e-6)
        np.testing.assert_allclose(module(x, memory=x).data, right, atol=1e-6)
        np.testing.assert_allclose(module(x, x).data, right + x.data, atol=1e-6)
        assert np.abs(module(x, causal=True).data - right).max() > 1e-3

    def test_heads_must_divide_the_width(self):
        with pytest.raises(ValueError, match="MultiheadAttention: 5 heads do not divide the width"):
            nn.MultiheadAttention(12, 5)

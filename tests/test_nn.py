"""Modules: formulas, names, state, modes."""

import math

import numpy as np
import pytest

from minillm import Tensor, manual_seed, nn, no_grad, ops
from minillm.arrays import default_generator, new_generator

F = np.float32


def x(*shape):
    return Tensor(np.random.default_rng(0).standard_normal(shape).astype(F))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.inner = nn.ModuleList([nn.Linear(2, 3), nn.LayerNorm(3)])
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight


class TestLayers:
    def test_linear_is_pytorchs_formula(self):
        layer, given = nn.Linear(3, 2), x(4, 5, 3)
        expected = given.data @ layer.weight.data.T + layer.bias.data
        assert layer.weight.shape == (2, 3)
        np.testing.assert_allclose(layer(given).data, expected, rtol=1e-5, atol=1e-6)
        assert nn.Linear(3, 2, bias=False).bias is None

    def test_initial_values_fill_their_range(self):
        weight = nn.Linear(100, 400, generator=new_generator(1)).weight.data
        assert 0.099 < weight.max() <= 0.1 and -0.1 <= weight.min() < -0.099
        assert abs(weight.mean()) < 0.001
        embedding = nn.Embedding(300, 100, generator=new_generator(1)).weight.data
        assert abs(embedding.std() - 1) < 0.02 and abs(embedding.mean()) < 0.02
        assert weight.dtype == embedding.dtype == F

    def test_a_seed_fixes_initial_values(self):
        weights = []
        for seed in (3, 3, 4):
            manual_seed(seed)
            weights.append(nn.Linear(4, 4).weight.data)
        assert np.array_equal(weights[0], weights[1])
        assert not np.array_equal(weights[0], weights[2])

    def test_a_generator_of_ones_own_leaves_the_default_alone(self):
        manual_seed(3)
        before = default_generator.bit_generator.state
        nn.Linear(4, 4, generator=new_generator(0))
        nn.Dropout(0.5, generator=new_generator(0))(x(4))
        after = default_generator.bit_generator.state
        assert np.array_equal(before["state"]["counter"], after["state"]["counter"])
        assert before["buffer_pos"] == after["buffer_pos"]

    def test_the_padding_row_is_read_but_not_trained(self):
        layer = nn.Embedding(4, 2, padding_idx=1)
        assert not layer.weight.data[1].any() and layer.weight.data[[0, 2, 3]].all()
        with no_grad():
            layer.weight[1] = 5
        out = layer(np.array([[3, 1, 3]]))
        assert np.array_equal(out.data[0], layer.weight.data[[3, 1, 3]])
        out.sum().backward()
        assert np.array_equal(layer.weight.grad.data, [[0, 0], [0, 0], [0, 0], [2, 2]])

    @pytest.mark.parametrize("activation", nn.ACTIVATIONS)
    def test_the_feed_forward_part_is_two_layers_and_an_activation(self, activation):
        layer, given, residual = nn.FeedForward(3, 5, activation), x(2, 4, 3), x(2, 4, 3)
        hidden = nn.ACTIVATIONS[activation](layer.first(given))
        expected = layer.second(hidden).data + residual.data
        np.testing.assert_allclose(layer(given, residual).data, expected, rtol=1e-5, atol=1e-6)
        assert nn.FeedForward(3, 5, activation, bias=False).parameter_count() == 30

    @pytest.mark.parametrize("kind", ["none", "bool", "float"])
    def test_attention_with_dropout_is_attention_where_nothing_is_dropped(self, kind):
        q, k, v = (Tensor(x(2, 3, 4, 5).data * n, requires_grad=True) for n in (1, 2, 3))
        mask = np.array([[True, True, False, True], [False] * 4])[:, None, None]
        mask = {"none": None, "bool": mask, "float": np.where(mask, F(0.5), F(-np.inf))}[kind]
        plain = nn.attend(q, k, v, mask=mask, causal=False)
        plain.sum().backward()
        expected = [t.grad.data.copy() for t in (q, k, v)]
        for t in (q, k, v):
            t.grad = None
        stepwise = nn.attend_dropping(q, k, v, nn.Dropout(2.0**-40), mask=mask)
        stepwise.sum().backward()
        np.testing.assert_allclose(stepwise.data, plain.data, rtol=1e-5, atol=1e-6)
        for t, right in zip((q, k, v), expected):
            np.testing.assert_allclose(t.grad.data, right, rtol=1e-4, atol=1e-5)
        half = nn.attend_dropping(q, k, v, nn.Dropout(0.5), mask=mask)
        assert not np.allclose(half.data, plain.data)

    def test_norms_start_as_the_plain_norm(self):
        given = x(4, 6)
        assert np.array_equal(nn.LayerNorm(6)(given).data, ops.layer_norm(given).data)
        assert np.array_equal(nn.RMSNorm(6)(given).data, ops.rms_norm(given).data)
        assert nn.LayerNorm(6, bias=False).bias is None
        assert (nn.LayerNorm(6).eps, nn.RMSNorm(6).eps) == (1e-5, 1e-6)
        assert not np.array_equal(nn.LayerNorm(6, eps=0.5)(given).data, nn.LayerNorm(6)(given).data)

    def test_gelu_has_two_forms(self):
        assert abs(nn.GELU()(Tensor([2.0])).item() - 1.954500) < 1e-6
        assert abs(nn.GELU("tanh")(Tensor([2.0])).item() - 1.954598) < 1e-6

    def test_embedding_looks_up_rows(self):
        layer = nn.Embedding(5, 3)
        assert np.array_equal(layer(np.array([[4, 0]])).data[0], layer.weight.data[[4, 0]])


class TestDropout:
    def test_it_acts_while_training_only(self):
        layer, given = nn.Dropout(0.5), x(50)
        assert layer.eval()(given) is given
        dropped = layer.train()(given).data
        assert 5 < (dropped == 0).sum() < 45
        kept = dropped != 0
        np.testing.assert_allclose(dropped[kept], 2 * given.data[kept])

    def test_each_call_draws_another_mask_and_a_seed_repeats_them(self):
        layer, given, runs = nn.Dropout(0.5), x(200), []
        for _ in range(2):
            manual_seed(9)
            runs.append([layer(given).data for _ in range(2)])
        assert np.array_equal(runs[0], runs[1])
        assert not np.array_equal(runs[0][0], runs[0][1])

    def test_evaluation_draws_nothing(self):
        layer, given = nn.Dropout(0.5), x(200)
        manual_seed(9)
        first = layer(given).data
        manual_seed(9)
        layer.eval()(given)
        nn.Dropout(0.0)(given)
        assert np.array_equal(layer.train()(given).data, first)

    @pytest.mark.parametrize("p", [-0.1, 1, math.nan])
    def test_an_impossible_p_is_refused(self, p):
        with pytest.raises(ValueError, match=r"Dropout: p=.*0 <= p < 1 is needed"):
            nn.Dropout(p)


class TestNames:
    def test_parameters_are_named_by_their_path_and_tied_ones_come_once(self):
        model = Tied()
        names = ["first.weight", "inner.0.weight", "inner.0.bias", "inner.1.weight", "inner.1.bias"]
        assert [name for name, _ in model.named_parameters()] == names
        assert list(model.state_dict()) == names
        assert model.parameter_count() == 4 + 6 + 3 + 3 + 3
        assert [name for name, _ in model.named_modules()] == [
            "", "first", "inner", "inner.0", "inner.1", "second",
        ]  # fmt: skip

    def test_a_tied_weight_collects_the_gradient_of_both_uses(self):
        model, given = Tied(), x(1, 2)
        (model.first(given) + model.second(given)).sum().backward()
        np.testing.assert_allclose(
            model.first.weight.grad.data, 2 * np.repeat(given.data, 2, axis=0), rtol=1e-6
        )
        model.zero_grad()
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_modes_reach_everything_below(self):
        model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
        assert [m.training for m in model.eval().modules()] == [False] * 4
        assert [m.training for m in model.train().modules()] == [True] * 4

    def test_sequences(self):
        linear = nn.Linear(2, 3)
        model = nn.Sequential(linear, ops.relu, lambda t: t * 2)
        given = x(4, 2)
        assert np.array_equal(model(given).data, 2 * np.maximum(linear(given).data, 0))
        assert list(model.state_dict()) == ["0.weight", "0.bias"]
        modules = nn.ModuleList([linear])
        modules.append(nn.GELU())
        assert (len(modules), modules[0], modules[-1], [*modules]) == (
            2, linear, modules[1], [linear, modules[1]],
        )  # fmt: skip
        with pytest.raises(IndexError):
            modules[2]

    def test_a_module_without_forward_says_so(self):
        with pytest.raises(NotImplementedError, match="ModuleList defines no forward"):
            nn.ModuleList()(x(1))


class TestState:
    def test_it_comes_back_as_a_copy(self):
        source, target = nn.Linear(2, 3), nn.Linear(2, 3)
        target.load_state_dict(source.state_dict())
        assert np.array_equal(target.weight.data, source.weight.data)
        with no_grad():
            source.weight[0, 0] = 100
        assert target.weight.data[0, 0] != 100

    def test_arrays_take_the_type_of_the_parameter(self):
        layer = nn.Linear(1, 1)
        layer.load_state_dict({"weight": np.array([[0.5]], np.float16), "bias": np.array([2])})
        assert layer.weight.data.tolist() == [[0.5]]
        assert layer.bias.data.dtype == F

    def test_everything_wrong_is_named_and_nothing_is_loaded(self):
        layer = nn.Linear(2, 3)
        before = layer.weight.data.copy()
        with pytest.raises(ValueError) as error:
            layer.load_state_dict({"weight": np.zeros((3, 2), F), "head": np.zeros(1)})
        assert str(error.value) == "load_state_dict: missing bias; unknown head"
        with pytest.raises(ValueError, match=r"weight has shape \(2, 3\), \(3, 2\) is needed"):
            layer.load_state_dict({"weight": np.zeros((2, 3)), "bias": np.zeros(3)})
        assert np.array_equal(layer.weight.data, before)
        with pytest.raises(ValueError, match=r"; 4 more$"):
            layer.load_state_dict({str(i): np.zeros(1) for i in range(8)})

    def test_loading_is_a_change_that_backward_notices(self):
        layer, given = nn.Linear(2, 3), Tensor(np.ones((1, 2), F), requires_grad=True)
        loss = layer(given).sum()
        layer.load_state_dict(nn.Linear(2, 3).state_dict())
        with pytest.raises(RuntimeError, match="was modified after it was used"):
            loss.backward()

    def test_float64_throughout(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4)).astype("float64")
        given = Tensor(np.ones((2, 3)), requires_grad=True)
        y = model(given)
        y.sum().backward()
        assert y.dtype == given.grad.dtype == np.float64
        assert all(p.dtype == p.grad.dtype == np.float64 for p in model.parameters())

    @pytest.mark.parametrize("dtype", ["float16", "int64"])
    def test_no_other_type_can_be_computed_with(self, dtype):
        layer = nn.Linear(2, 2)
        with pytest.raises(TypeError, match=f"astype: {dtype}, float32 or float64 is needed"):
            layer.astype(dtype)
        assert layer.weight.dtype == F

    def test_devices(self):
        layer = nn.Linear(2, 2)
        assert layer.to("cpu") is layer
        with pytest.raises(ValueError, match="'tpu' is not known, 'cpu' or 'cuda' is needed"):
            layer.to("tpu")


class TestHeads:
    def test_heads_are_consecutive_features(self):
        given = x(2, 5, 12)
        heads = nn.split_heads(given, 3)
        assert heads.shape == (2, 3, 5, 4)
        assert np.array_equal(heads.data[:, 1], given.data[:, :, 4:8])
        assert np.array_equal(nn.merge_heads(heads).data, given.data)

    def test_attention_is_causal_unless_told_otherwise(self):
        q, k, v = x(1, 2, 5, 4), x(1, 2, 5, 4), x(1, 2, 5, 4)
        for causal in (True, False):
            expected = ops.scaled_dot_product_attention(q, k, v, causal=causal)
            assert np.array_equal(nn.attend(q, k, v, causal=causal).data, expected.data)
        assert np.array_equal(nn.attend(q, k, v).data, nn.attend(q, k, v, causal=True).data)


@pytest.mark.parametrize("queries", [1, 3, 5])
def test_attention_by_steps_hides_the_keys_after_each_query(queries):
    generator = np.random.default_rng(3)
    q, k, v = (generator.normal(size=(2, 3, n, 4)) for n in (queries, 5, 5))
    right = ops.scaled_dot_product_attention(q, k, v, causal=True, offset=5 - queries).data
    got = nn.attend_dropping(*map(Tensor, (q, k, v)), lambda x: x, causal=True).data
    np.testing.assert_allclose(got, right, rtol=1e-12)

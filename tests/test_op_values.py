"""Published and hand-computed values, by the reference and by the kernels."""

import math
import warnings

import numpy as np
import pytest

from minillm import Tensor, kernels, ops
from minillm.ops import dropout as dropout_op
from minillm.ops.dropout import random_bits

NAN, INF = math.nan, math.inf
F = np.float32


@pytest.fixture(params=["reference", "auto"], autouse=True)
def provider(request):
    if request.param == "auto" and kernels.cpu is None:
        pytest.skip("the C++ extension is not installed")
    with kernels.use(request.param), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield request.param


def leaf(values):
    return Tensor(np.array(values, F), requires_grad=True)


def close(got, expected, tolerance=2e-6):
    got = got.data if isinstance(got, Tensor) else got
    assert got.dtype == F
    np.testing.assert_allclose(got, np.array(expected), rtol=tolerance, atol=tolerance)


def test_gelu_in_both_forms():
    x = leaf([-1, 0.5, 2])
    close(ops.gelu(x, approximate="tanh"), [-0.158808, 0.345714, 1.954598])
    close(ops.gelu(x), [-0.158655, 0.345731, 1.954500])
    digits = {
        "tanh": [-0.15880800939172, 0.34571400982514, 1.9545976940878],
        "none": [-0.15865525393146, 0.34573123063701, 1.9544997361036],
    }
    for approximate, values in digits.items():
        y = ops.gelu(Tensor(x.data.astype(float)), approximate=approximate)
        np.testing.assert_allclose(y.data, values, rtol=1e-12)
    far = leaf([-12.5, -8, -5, 5, 8, 40])
    exact = [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in far.data.tolist()]
    np.testing.assert_allclose(ops.gelu(far).data, exact, rtol=1e-5)


def test_other_activations():
    x = leaf([-1000, -1, 0, 1, 1000])
    close(ops.sigmoid(x), [0, 0.2689414, 0.5, 0.7310586, 1])
    close(ops.silu(x), [0, -0.2689414, 0, 0.7310586, 1000])
    close(ops.tanh(x), [-1, -0.7615942, 0, 0.7615942, 1])
    y = ops.relu(x)
    y.sum().backward()
    close(y, [0, 0, 0, 1, 1000])
    close(x.grad, [0, 0, 0, 1, 1])


def test_layer_norm_takes_the_biased_variance():
    x = leaf([[1, 2, 3, 4]])
    close(ops.layer_norm(x, eps=1e-5), [[-1.3416354, -0.4472118, 0.4472118, 1.3416354]])
    weight, bias = np.array([1, 2, 3, 4], F), np.array([0, 1, 0, -1], F)
    close(ops.layer_norm(x, weight, bias), [[-1.3416354, 0.1055764, 1.3416354, 4.3665416]])


def test_layer_norm_of_a_large_offset_keeps_its_digits():
    close(ops.layer_norm(leaf([[10001, 10002, 10003, 10004]])),
          [[-1.3416354, -0.4472118, 0.4472118, 1.3416354]])  # fmt: skip


def test_rms_norm():
    close(ops.rms_norm(leaf([[3, 4]]), eps=0.0), [[0.8485281, 1.1313708]])
    close(ops.rms_norm(leaf([[0, 0]]), np.array([5, 5], F)), [[0, 0]])


def test_softmax_and_its_logarithm():
    close(ops.softmax(leaf([2, 1, 0])), [0.6652410, 0.2447285, 0.0900306])
    close(ops.softmax(leaf([1002, 1001, 1000])), [0.6652410, 0.2447285, 0.0900306])
    close(ops.log_softmax(leaf([2, 1, 0])), [-0.4076060, -1.4076060, -2.4076060])
    close(ops.log_softmax(leaf([0, -200])), [0, -200])


@pytest.mark.parametrize("op, empty", [(ops.softmax, 0), (ops.log_softmax, -INF)])
def test_softmax_of_minus_infinity(op, empty):
    x = leaf([[-INF, -INF, -INF], [0, -INF, 0]])
    y = op(x)
    assert y.data[0].tolist() == [empty] * 3
    assert y.data[1, 1] == empty
    close(y[1, 0], 0.5 if op is ops.softmax else -math.log(2))
    y.backward(np.array([[1, 2, 3], [1, 2, 3]], F))
    assert x.grad.data[0].tolist() == [0, 0, 0]
    assert np.isfinite(x.grad.data[1, [0, 2]]).all()


def test_rotary_embedding_in_both_layouts():
    x = leaf([[1, 2, 3, 4]])
    cos, sin = (np.array([[f(1), f(0.01)]], F) for f in (math.cos, math.sin))
    close(ops.rotary_embedding(x, cos, sin), [[-1.98411, 1.95990, 2.46238, 4.0198]], 1e-5)
    turned = ops.rotary_embedding(x, cos, sin, interleaved=True)
    close(turned, [[-1.14264, 1.92208, 2.95985, 4.0298]], 1e-5)
    close(ops.rotary_embedding(turned, cos, -sin, interleaved=True), x.data)


def test_rotary_embedding_leaves_features_beyond_the_angles_alone():
    x = leaf([[1, 2, 3, 4, 5]])
    close(ops.rotary_embedding(x, np.zeros((1, 1), F), np.ones((1, 1), F)), [[-2, 1, 3, 4, 5]])


def test_matmul_of_whole_numbers():
    a, b = leaf([[1, 2], [3, 4]]), leaf([[5, 6], [7, 8]])
    (a @ b).backward(np.array([[1, 0], [0, 2]], F))
    close(a @ b, [[19, 22], [43, 50]])
    close(a.grad, [[5, 7], [12, 16]])
    close(b.grad, [[1, 6], [2, 8]])


def test_linear_of_whole_numbers():
    x, w, bias = leaf([[1, 2]]), leaf([[3, 4], [5, 6], [7, 8]]), leaf([1, 0, -1])
    y = ops.linear(x, w, bias)
    close(y, [[12, 17, 22]])
    y.backward(np.array([[1, 0, 2]], F))
    close(x.grad, [[17, 20]])
    close(w.grad, [[1, 2], [0, 0], [2, 4]])
    close(bias.grad, [1, 0, 2])


def test_linear_adds_a_residual_whose_gradient_passes_through():
    x, w, bias, rest = leaf([[1, 2]]), leaf([[3, 4], [5, 6]]), leaf([1, 0]), leaf([[10, 20]])
    y = ops.linear(x, w, bias, rest)
    close(y, [[22, 37]])
    y.backward(np.array([[1, 2]], F))
    close(x.grad, [[13, 16]])
    close(rest.grad, [[1, 2]])
    close(bias.grad, [1, 2])
    close(ops.linear(x, w, None, rest), [[21, 37]])


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu", "silu"])
def test_feed_forward_of_one_feature(activation):
    """By hand: 3 a(2x + 1) - 1 + 10, the slope by differences."""
    known = {
        "gelu_tanh": lambda h: (
            h / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        ),
        "gelu": lambda h: h * 0.5 * math.erfc(-h / math.sqrt(2)),
        "silu": lambda h: h / (1 + math.exp(-h)),
    }[activation]
    slope = (known(0.4 + 1e-5) - known(0.4 - 1e-5)) / 2e-5
    x, w1, b1, w2, b2, rest = (leaf(v) for v in ([[-0.3]], [[2]], [1], [[3]], [-1], [[10]]))
    y = ops.feed_forward(x, w1, b1, w2, b2, rest, activation=activation)
    close(y, [[3 * known(0.4) + 9]])
    y.backward(np.array([[2]], F))
    close(x.grad, [[2 * 3 * slope * 2]])
    close(w1.grad, [[2 * 3 * slope * -0.3]])
    close(b1.grad, [2 * 3 * slope])
    close(w2.grad, [[2 * known(0.4)]])
    close(b2.grad, [2])
    close(rest.grad, [[2]])


def test_norm_survives_squares_that_overflow():
    x = leaf([3e30, 4e30])
    y = ops.norm(x)
    y.backward()
    np.testing.assert_allclose(y.data, 5e30, rtol=1e-6)
    close(x.grad, [0.6, 0.8])
    zero = leaf([0, 0])
    ops.norm(zero).backward()
    assert zero.grad.data.tolist() == [0, 0]


def test_equal_largest_elements_share_the_gradient():
    x = leaf([[2, 2, 1], [0, 3, 3]])
    x.max(axis=1).sum().backward()
    close(x.grad, [[0.5, 0.5, 0], [0, 0.5, 0.5]])
    y = leaf([2, 2, 2, 2])
    y.max().backward()
    close(y.grad, [0.25] * 4)


def test_integers_and_booleans_are_counted():
    assert (Tensor([1.0, 5.0, 7.0]) > 4).sum().item() == 2
    assert (Tensor([1.0, 5.0, 7.0, 8.0]) > 4).mean().item() == 0.75
    assert Tensor(np.full(10, 200, np.uint8)).sum().item() == 2000
    assert Tensor([1, 2]).mean().item() == 1.5


class TestEmbedding:
    def test_repeated_ids_each_contribute(self):
        w = leaf(np.zeros((3, 2)))
        ops.embedding(w, np.array([1, 2, 1])).backward(np.array([[1, 2], [3, 4], [5, 6]], F))
        close(w.grad, [[0, 0], [6, 8], [3, 4]])

    @pytest.mark.parametrize("ids, wrong", [([0, 6], 6), ([2, -1], -1), ([5], 5)])
    def test_an_id_out_of_range_is_named(self, ids, wrong):
        with pytest.raises(IndexError, match=rf"embedding: id {wrong}, 0 <= id < 5 is needed"):
            ops.embedding(leaf(np.ones((5, 2))), np.array(ids))

    def test_ids_must_be_whole_numbers(self):
        for ids in (np.array([1.0]), np.array([True])):
            with pytest.raises(TypeError, match="integers are needed"):
                ops.embedding(leaf(np.ones((5, 2))), ids)

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint64"])
    def test_any_integer_type_serves(self, dtype):
        w = leaf([[1, 2], [3, 4]])
        y = ops.embedding(w, np.array([[1, 0], [1, 1]], dtype))
        close(y, [[[3, 4], [1, 2]], [[3, 4], [3, 4]]])
        y.sum().backward()
        close(w.grad, [[1, 1], [3, 3]])


class TestCrossEntropy:
    logits = ((2, 1, 0), (0, 0, 0))

    def loss(self, target, **options):
        return ops.cross_entropy(leaf(self.logits), np.array(target), **options)

    def test_reductions(self):
        close(self.loss([0, 2], reduction="none"), [0.4076060, 1.0986123])
        close(self.loss([0, 2]), 0.7531091)
        close(self.loss([0, 2], reduction="sum"), 1.5062183)

    def test_ignored_targets_do_not_count(self):
        close(self.loss([-100, 1]), 1.0986123)
        close(self.loss([1, 1], ignore_index=1, reduction="none"), [0, 0])
        close(self.loss([1, 0], ignore_index=1), 1.0986123)

    def test_label_smoothing_mixes_in_the_uniform_distribution(self):
        uniform = (0.4076060 + 1.4076060 + 2.4076060) / 3
        close(self.loss([0, 2], label_smoothing=0.1, reduction="none"),
              [0.9 * 0.4076060 + 0.1 * uniform, 1.0986123])  # fmt: skip

    def test_the_gradient_is_probability_minus_target(self):
        x = leaf([[2, 1, 0], [5, 5, 5], [0, 0, 0]])
        ops.cross_entropy(x, np.array([0, -100, 2])).backward()
        close(x.grad, [[-0.1673795, 0.1223643, 0.0450153], [0, 0, 0], [1 / 6, 1 / 6, -1 / 3]])

    @pytest.mark.parametrize("place", [0, 2])
    @pytest.mark.parametrize("low", [-INF, -1e9, -1e8])
    def test_a_class_that_is_ruled_out_changes_nothing(self, low, place):
        """Adding such a logit leaves loss and gradients of the others as they were."""
        with_it, without = leaf([np.insert([5.0, 3.0], place, low)]), leaf([[5, 3]])
        target = 1 if place == 0 else 0
        loss = ops.cross_entropy(with_it, np.array([target]))
        loss.backward()
        ops.cross_entropy(without, np.array([0])).backward()
        close(loss, 0.1269280)
        close(np.delete(with_it.grad.data, place)[None], without.grad.data)
        assert with_it.grad.data[0, place] == 0

    def test_everything_ignored_has_no_mean(self):
        with pytest.raises(ValueError, match=r"all 2 targets are ignored \(-100\)"):
            self.loss([-100, -100])
        close(self.loss([-100, -100], reduction="sum"), 0)

    @pytest.mark.parametrize("target, wrong", [([0, 3], 3), ([-1, 0], -1)])
    def test_a_target_out_of_range_is_named(self, target, wrong):
        with pytest.raises(IndexError, match=f"id {wrong}, 0 <= id < 3"):
            self.loss(target)

    def test_an_ignored_row_hides_its_nan(self):
        x = leaf([[NAN, 0, 0], [2, 1, 0]])
        loss = ops.cross_entropy(x, np.array([-100, 0]))
        loss.backward()
        close(loss, 0.4076060)
        close(x.grad, [[0, 0, 0], [-0.3347590, 0.2447285, 0.0900306]])

    def test_a_nan_that_counts_shows(self):
        assert np.isnan(ops.cross_entropy(leaf([[NAN, 0, 0]]), np.array([1])).item())

    @pytest.mark.parametrize("vocabulary, rows", [(5, 3), (1 << 18, 9)])  # one chunk, three
    def test_fused_with_the_matrix_product_it_is_the_same(self, vocabulary, rows):
        rng = np.random.default_rng(0)
        x, w = rng.standard_normal((rows, 3)), rng.standard_normal((vocabulary, 3))
        target = rng.integers(0, vocabulary, rows)
        target[1] = -100
        grads = []
        for fused in (True, False):
            a, b = leaf(x), leaf(w)
            loss = (
                ops.linear_cross_entropy(a, b, target, label_smoothing=0.1)
                if fused
                else ops.cross_entropy(ops.linear(a, b), target, label_smoothing=0.1)
            )
            loss.backward()
            grads.append((loss.data, a.grad.data, b.grad.data))
        for one, other in zip(*grads):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


class TestDropout:
    def test_published_outputs_of_splitmix64(self):
        assert random_bits(np, 0, 3).tolist() == [
            16294208416658607535, 7960286522194355700, 487617019471545679,
        ]  # fmt: skip
        assert random_bits(np, 1234567, 3).tolist() == [
            6457827717110365317, 3203168211198807973, 9817491932198370423,
        ]  # fmt: skip

    @pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
    def test_the_mask_follows_the_published_numbers(self, p):
        kept = [bits / 2**64 >= p for bits in random_bits(np, 7, 1000).tolist()]
        y = ops.dropout(leaf(np.ones(1000)), p=p, seed=7)
        close(y, np.array(kept) / (1 - p))

    def test_shares_and_mean(self):
        y = ops.dropout(leaf(np.ones((300, 300))), p=0.3, seed=11).data
        assert abs((y == 0).mean() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / y.size)
        assert abs(y.mean() - 1) < 5 * math.sqrt(0.3 / 0.7 / y.size)
        neighbours = np.corrcoef((y == 0)[:, 1:].ravel(), (y == 0)[:, :-1].ravel())[0, 1]
        assert abs(neighbours) < 0.02

    def test_forward_backward_and_reference_use_one_mask(self):
        x = leaf(np.ones(5000))
        y = ops.dropout(x, p=0.25, seed=3)
        y.sum().backward()
        assert np.array_equal(x.grad.data, y.data)
        assert np.array_equal(dropout_op.forward(np, x.data, p=0.25, seed=3)[0], y.data)
        assert not np.array_equal(ops.dropout(x, p=0.25, seed=4).data, y.data)

    def test_nothing_is_dropped_at_0(self):
        x = leaf(np.arange(100.0))
        assert np.array_equal(ops.dropout(x, p=0.0, seed=1).data, x.data)

    def test_a_dropped_nan_is_gone(self):
        y = ops.dropout(leaf(np.full(100, NAN)), p=0.5, seed=1).data
        assert set(np.isnan(y)) == {True, False}
        assert (y[~np.isnan(y)] == 0).all()

    @pytest.mark.parametrize("p", [-0.1, 1, 1.5, NAN])
    def test_an_impossible_p_is_refused(self, p):
        with pytest.raises(ValueError, match=r"dropout: p=.*0 <= p < 1 is needed"):
            ops.dropout(leaf([1]), p=p, seed=0)


class TestUpdateRules:
    def test_adamw_over_three_steps(self):
        w, m, v = np.ones(1), np.zeros(1), np.zeros(1)
        for step, grad in enumerate((1.0, 0.5, 0.25), 1):
            ops.adamw.compute(w, np.array([grad]), m, v, lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8,
                              weight_decay=0.0, step=step)  # fmt: skip
        assert abs(w[0] - 0.7225118734) < 1e-10

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_adamw_decays_the_weight_and_not_the_gradient(self, dtype):
        w, m, v = np.full(1, 2, dtype), np.zeros(1, dtype), np.zeros(1, dtype)
        ops.adamw.compute(w, np.full(1, 6, dtype), m, v, lr=0.1, beta1=0.9, beta2=0.99, eps=0.0,
                          weight_decay=0.5, step=1, grad_scale=0.5)  # fmt: skip
        np.testing.assert_allclose([w[0], m[0], v[0]], [1.8, 0.3, 0.09], rtol=1e-6)

    def test_sgd_with_momentum_and_decay(self):
        w, buffer = np.ones(1, F), np.zeros(1, F)
        for _ in range(2):
            ops.sgd.compute(w, np.ones(1, F), buffer, lr=0.1, momentum=0.5, weight_decay=0.1)
        close(buffer, [1.639])  # 1.1, then 0.55 + 1 + 0.089
        close(w, [0.7261])


def row_op(name):
    weight = np.linspace(-1, 1, 20).reshape(5, 4).astype(F)
    return {
        "linear": lambda x: ops.linear(x, weight),
        "matmul": lambda x: x @ weight.T,
        "softmax": ops.softmax,
        "log_softmax": ops.log_softmax,
        "layer_norm": ops.layer_norm,
        "rms_norm": ops.rms_norm,
        "loss": lambda x: ops.cross_entropy(x, np.array([0, 1, 2]), reduction="none"),
        "fused loss": lambda x: ops.linear_cross_entropy(
            x, weight, np.array([0, 1, 2]), reduction="none"
        ),
        "sum": lambda x: x.sum(axis=1),
        "max": lambda x: x.max(axis=1),
        "norm": lambda x: ops.concatenate(*(ops.norm(row).reshape(1) for row in x)),
    }[name]


ROW_OPS = ("linear", "matmul", "softmax", "log_softmax", "layer_norm", "rms_norm", "loss",
           "fused loss", "sum", "max", "norm")  # fmt: skip


@pytest.mark.parametrize("name", ROW_OPS)
@pytest.mark.parametrize("wild", [NAN, INF])
def test_a_wild_value_shows_in_its_row_and_in_no_other(name, wild):
    warnings.simplefilter("ignore")
    x = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [4, 2, 0, 1]], F)
    spoilt = x.copy()
    spoilt[1, 2] = wild
    good, bad = row_op(name)(Tensor(x)).data, row_op(name)(Tensor(spoilt)).data
    assert not np.isfinite(bad[1]).all()
    np.testing.assert_allclose(bad[[0, 2]], good[[0, 2]], rtol=1e-6)


@pytest.mark.parametrize("op", [ops.gelu, ops.silu, ops.relu, ops.tanh, ops.sigmoid],
                         ids=lambda op: op.name)  # fmt: skip
def test_activations_at_the_ends(op):
    x = leaf([NAN, INF, -INF, 1])
    y = op(x)
    y.sum().backward()
    limit = {"gelu": 0, "silu": 0, "relu": 0, "tanh": -1, "sigmoid": 0}[op.name]
    top = 1 if op.name in ("tanh", "sigmoid") else INF
    assert np.isnan(y.data[0])
    assert y.data[1:3].tolist() == [top, limit]
    assert np.isfinite(x.grad.data[1:]).all()


def test_integer_scalars_of_numpy_do_not_widen():
    x = Tensor([1.0, 2.0])
    for result in (ops.multiply(x, np.int64(2)), ops.add(np.int32(2), x)):
        assert result.dtype == np.float32


def test_lists_are_refused_in_one_line():
    with pytest.raises(TypeError, match="embedding: a list given, a Tensor or an array is needed"):
        ops.embedding(Tensor(np.zeros((3, 2))), [0, 1])

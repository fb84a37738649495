"""Products of float32 large enough to be cut into bfloat16 pieces, where tiles multiply."""

import warnings

import numpy as np
import pytest

from minillm import kernels, testing
from minillm.arrays import new_generator
from minillm.ops import registry

pytestmark = pytest.mark.skipif(
    kernels.cpu is None, reason="the C++ extension is not installed: NumPy multiplies"
)

TRANSPOSED = [(False, False), (True, False), (False, True), (True, True)]


def laid_out(array, transposed):
    return array.T.copy().T if transposed else array


def product(a, b, transposed=(False, False)):
    return registry["matmul"].compute(laid_out(a, transposed[0]), laid_out(b, transposed[1]))[0]


def whole_numbers(rng, shape):
    """All 24 bits of the significand in use, exponents from 2^-102 to 2^127, the largest too."""
    exponents = rng.integers(-102 + 127, 255, shape, dtype=np.uint32)
    bits = rng.integers(0, 1 << 23, shape, dtype=np.uint32) | 1
    numbers = (exponents << 23 | bits | rng.integers(0, 2, shape, dtype=np.uint32) << 31).view("f4")
    largest = np.finfo("f4").max
    numbers.flat[:4] = largest, -largest, float.fromhex("0x1.ffp127"), float.fromhex("0x1.fep127")
    return numbers


@pytest.mark.parametrize("transposed", TRANSPOSED)
def test_a_number_times_one_is_that_number(transposed):
    rng = new_generator(1)
    x = whole_numbers(rng, (131, 200))
    order = rng.permutation(200)
    ones = np.eye(200, dtype=np.float32)[order]
    np.testing.assert_array_equal(product(x, ones.T.copy(), transposed), x[:, order])
    np.testing.assert_array_equal(product(ones, x.T.copy(), transposed), x.T[order])


def check(name, arrays, **params):
    op = registry[name]
    truth = testing.reference(op, arrays, params, eps=testing.EPS["float32"])
    provider = testing.providers(op)[-1]
    testing.check_case(truth, provider, provider)


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("transposed", TRANSPOSED)
@pytest.mark.parametrize("shape", [(64, 512, 64), (65, 2003, 67), (1100, 33, 70), (70, 900, 1100)])
def test_products_agree_with_the_truth(shape, transposed):
    m, k, n = shape
    rng = new_generator(*shape)
    check("matmul", [laid_out(normal(rng, m, k), transposed[0]),
                     laid_out(normal(rng, k, n), transposed[1])])  # fmt: skip


@pytest.mark.parametrize("shape", [(300, 5000, 260), (1330, 1300, 1400)])
def test_products_too_large_to_be_packed_at_once_are_exact_on_whole_numbers(shape):
    m, k, n = shape
    rng = new_generator(7)
    a, b = (rng.integers(-8, 9, size).astype(np.float32) for size in ((m, k), (k, n)))
    np.testing.assert_array_equal(product(a, b), a @ b)  # no sum has more than 24 bits


@pytest.mark.parametrize("bias, residual", [(True, False), (False, True), (True, True)])
def test_linear_layers_agree_with_the_truth(bias, residual):
    rng = new_generator(2)
    check("linear", [normal(rng, 330, 140), normal(rng, 97, 140), normal(rng, 97) if bias else None,
                     normal(rng, 330, 97) if residual else None])  # fmt: skip


@pytest.mark.parametrize("sizes", [(300, 70, 150, 66), (1090, 64, 131, 65)])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_feed_forward_layers_agree_with_the_truth(sizes, activation):
    rows, inner, hidden, outer = sizes
    rng = new_generator(*sizes)
    shapes = (rows, inner), (hidden, inner), (hidden,), (outer, hidden), (outer,), (rows, outer)
    check("feed_forward", [normal(rng, *shape) for shape in shapes], activation=activation)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(201, 201, 65), (130, 333, 66)])
def test_attention_agrees_with_the_truth(sizes, causal):
    queries, keys, width = sizes
    rng = new_generator(*sizes)
    q, k, v = (normal(rng, 1, 2, rows, width) for rows in (queries, keys, keys))
    check("scaled_dot_product_attention", [q, k, v, None],
          causal=causal, offset=keys - queries, scale=None)  # fmt: skip


def test_a_loss_of_many_classes_agrees_with_the_truth():
    rng = new_generator(3)
    target = rng.integers(0, 2110, 530)
    target[::7] = -100
    check("linear_cross_entropy", [normal(rng, 530, 65), normal(rng, 2110, 65), target])


def same_kinds(found, exact):
    """NaN and infinities where they belong, and the other numbers nearly right."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact))
    infinite = np.isinf(exact)
    np.testing.assert_array_equal(found[infinite], exact[infinite])
    finite = np.isfinite(exact)
    np.testing.assert_allclose(found[finite], exact[finite], rtol=1e-4, atol=1e-4)


def test_wild_values_of_a_product_stay_where_they_belong():
    rng = new_generator(4)
    a, b = normal(rng, 130, 200), normal(rng, 200, 150)
    a[5, 7], a[70, 3], a[71, 3], b[9, 11] = np.inf, np.nan, -np.inf, -np.inf
    a[100] = 0  # times infinity: NaN
    a[101].view(np.uint32)[:] = 0xFFFFFFFF  # a NaN too
    b[:, 40] = np.round(b[:, 40] * 4) / 4  # few bits: pieces that are 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same_kinds(product(a, b), a.astype(np.float64) @ b.astype(np.float64))


def test_wild_values_of_a_feed_forward_layer_stay_where_they_belong():
    rng = new_generator(5)
    shapes = (200, 70), (150, 70), (150,), (66, 150), (66,), (200, 66)
    arrays = [normal(rng, *shape) for shape in shapes]
    arrays[0][3, 5], arrays[0][150, 1] = np.nan, np.inf
    op = registry["feed_forward"]
    reference, provider = testing.providers(op)[0], testing.providers(op)[-1]
    upstream = normal(rng, 200, 66)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact, saved = testing.outputs(op, reference, arrays, {"activation": "silu"})
        found, _ = testing.outputs(op, provider, arrays, {"activation": "silu"})
        same_kinds(found[0], exact[0])
        grads = [p.backward(upstream, saved, {"activation": "silu"}) for p in (reference, provider)]
    for theirs, ours in zip(*grads):
        np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs))


@pytest.mark.parametrize("rows", [97, 111])
def test_a_feed_forward_layer_has_the_same_bits_whatever_was_computed_before(rows):
    """Its last tile has lines that are none, in memory that another call has used."""
    rng = new_generator(6)
    weights = [normal(rng, *shape) for shape in ((512, 70), (512,), (66, 512), (66,))]
    x, op = normal(rng, rows, 70), registry["feed_forward"]
    first = op.compute(x, *weights)[0]
    op.compute(np.full((112, 70), np.nan, np.float32), *weights)
    np.testing.assert_array_equal(op.compute(x, *weights)[0], first)

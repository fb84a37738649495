"""Elements further than 2^31 from the first of their array: no index may have 32 bits only.

What takes strides is tested on a few elements far apart, against the same a little apart; what
counts through contiguous arrays on arrays that repeat a few megabytes, by what comes of their end.
"""

import math

import numpy as np
import pytest

from huge_arrays import OWN, PAST, PIECE, addresses, far, near, repeated
from minillm import kernels
from minillm.arrays import new_generator
from minillm.ops import registry
from minillm.ops.dropout import GOLDEN, MASK_64

pytestmark = pytest.mark.skipif(
    kernels.cpu is None, reason="the C++ extension is not installed: NumPy's indices are NumPy's"
)
cpu = kernels.cpu
ISAS = [] if cpu is None else cpu.runtime.available_isas()
PRECISIONS = ["f32", "bf16"] if kernels.has_bf16() else ["f32"]


@pytest.fixture(autouse=True)
def isa_restored():
    before = cpu.runtime.isa()
    yield
    cpu.runtime.set_isa(before)


def normal(*shape, seed=0):
    return new_generator(seed).standard_normal(shape, dtype=np.float32)


def same_on_every_isa(compute):
    """`compute(lay)` gives the same bits whether arrays are laid far apart or near."""
    for isa in ISAS:
        cpu.runtime.set_isa(isa)
        for precision in PRECISIONS if isa == "amx" else ["f32"]:
            with kernels.precision(precision):
                found = [[a.tobytes() for a in compute(lay)] for lay in (near, far)]
            assert found[0] == found[1], (isa, precision)


# Strides.

SHAPES = {
    "a row": (1, 90, 40),
    "a column": (90, 40, 1),
    "a few rows": (5, 40, 90),
    "more columns": (33, 70, 90),
    "more rows": (120, 70, 33),
    "several slices of depth": (40, 1100, 20),
}


@pytest.mark.parametrize("axes", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_products_of_matrices_whose_rows_or_columns_are_far_apart(shape, axes):
    m, k, n = shape
    a, b = normal(m, k), normal(k, n, seed=1)
    i, j = (axis if array.shape[axis] > 1 else 1 - axis for axis, array in zip(axes, (a, b)))
    same_on_every_isa(lambda lay: registry["matmul"].compute(lay(a, i), lay(b, j))[:1])


@pytest.mark.parametrize("axis", [0, 1])
def test_products_of_batches_far_apart(axis):
    a, b = normal(2, 3, 20, 30), normal(3, 30, 20, seed=1)
    same_on_every_isa(lambda lay: registry["matmul"].compute(lay(a, axis), lay(b, 0))[:1])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("mask_axis", [None, 2, 3])
def test_attention_of_heads_and_rows_far_apart(axis, mask_axis):
    q, k, v = normal(2, 4, 70, 24), normal(2, 2, 90, 24, seed=1), normal(2, 2, 90, 24, seed=2)
    mask = new_generator(3).random((1, 1, 70, 90)) < 0.9

    def compute(lay):
        given = None if mask_axis is None else lay(mask, mask_axis)
        inputs, out = [lay(a, axis) for a in (q, k, v)], lay(np.zeros_like(q), axis)
        lse = np.empty(q.shape[:3], np.float32)
        name = "scaled_dot_product_attention"
        getattr(cpu, f"{name}_forward")(*inputs, given, True, 20, 0.2, out, lse)
        grads = [lay(np.zeros_like(a), axis) for a in (q, k, v)]
        upstream = lay(normal(*q.shape, seed=4), axis)
        getattr(cpu, f"{name}_backward")(upstream, *inputs, given, out, lse, True, 20, 0.2, *grads)
        return [out, lse, *grads]

    same_on_every_isa(compute)


def test_the_check_for_infinity_looks_far():
    x = np.zeros((3, 40), np.float32)
    for isa in ISAS:
        cpu.runtime.set_isa(isa)
        for axis in (0, 1):
            assert cpu.runtime.all_finite(far(x, axis))
            wild = x.copy()
            wild[-1, -1] = np.inf
            assert not cpu.runtime.all_finite(far(wild, axis))


# Contiguous arrays.

LAST = 40  # rows whose results are compared
COLS = 1037


@pytest.fixture(scope="module")
def memories():
    return []


@pytest.fixture
def huge(memories):
    """A function: array number `place`, zero, of as many rows of a shape as fit, or of `rows`."""

    def take(place, *row, rows=None):
        while len(memories) <= place:
            memories.append(repeated())
        memory = memories[place]
        memory[: PIECE // 4], memory[-OWN:] = 0, 0
        size = math.prod(row)
        rows = rows or memory.size // size
        return memory[memory.size - rows * size :].reshape(rows, *row)

    return take


def whole(*shape, seed=0):
    """Small whole numbers: their sums are exact in any order."""
    return new_generator(seed).integers(-3, 4, shape).astype(np.float32)


def same_bits(one, other):
    return [a.tobytes() for a in one] == [a.tobytes() for a in other]


def per_row(rows):
    return np.zeros(rows, np.float32)


def of_layer_norm(grad, x, dx):
    """What all rows give together, besides dx."""
    sums = np.empty(COLS, np.float32), np.empty(COLS, np.float32)
    zeros, ones = per_row(len(x)), per_row(len(x)) + 1
    cpu.layer_norm_backward(grad, x, None, zeros, ones, dx, *sums, (False,) * 3)
    return sums


def loss_arguments(x):
    return np.zeros(len(x), np.int64), -100, 0.0


ROW_BY_ROW = {
    "gelu": lambda x, out: cpu.gelu_forward(x, True, out),
    "softmax": lambda x, out: cpu.softmax_forward(x, out),
    "log_softmax backward": lambda grad, x, dx: cpu.log_softmax_backward(grad, x, dx),
    "layer_norm": lambda x, out: cpu.layer_norm_forward(
        x, None, None, 1e-5, out, per_row(len(x)), per_row(len(x))
    ),
    "layer_norm backward": of_layer_norm,
    "cross_entropy": lambda x, _: cpu.cross_entropy_forward(
        x, *loss_arguments(x), per_row(len(x)), per_row(len(x))
    ),
    "cross_entropy backward": lambda x, dx: cpu.cross_entropy_backward(
        per_row(len(x)) + 1, x, loss_arguments(x)[0], per_row(len(x)), -100, 0.0, dx
    ),
}


@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_the_last_rows_are_those_of_a_small_array(huge, name):
    kernel = ROW_BY_ROW[name]
    inputs = kernel.__code__.co_argcount - 1
    large = [huge(place, COLS) for place in range(inputs + 1)]
    small = [whole(LAST, COLS, seed=place) for place in range(inputs)]
    for array, last in zip(large, small):
        array[-LAST:] = last
    out = np.zeros((LAST, COLS), np.float32)
    assert same_bits(kernel(*large) or (), kernel(*small, out) or ())
    assert np.array_equal(large[-1][-LAST:], out)


def test_dropout_counts_on(huge):
    x, out = huge(0, 1), huge(1, 1)
    x[-LAST:] = 1
    near_out = np.empty((LAST, 1), np.float32)
    cpu.dropout_forward(x, 0.5, 7, out)
    seed = 7 + GOLDEN * (len(x) - LAST) & MASK_64  # the same stream, from there on
    cpu.dropout_forward(x[-LAST:].copy(), 0.5, seed, near_out)
    assert np.array_equal(out[-LAST:], near_out)
    assert 0 < near_out.sum() < 2 * LAST


def test_a_linear_layer(huge):
    weight, dweight = huge(0, 1024), huge(1, 1024)
    last = whole(LAST, 1024)
    weight[-LAST:] = last
    x, found = whole(1, 1024, seed=1), []
    for w, dw in ((weight, dweight), (last, np.empty_like(last))):
        out, dx = np.empty((1, len(w)), np.float32), np.empty_like(x)
        cpu.linear_forward(x, w, None, None, out)
        cpu.linear_backward(out, x, w, dx, dw, None, (False,) * 3)
        found.append((out[:, -LAST:], dx, dw[-LAST:]))
    assert same_bits(*found)


def test_cross_entropy_of_a_linear_layer(huge):
    weight, dweight = huge(0, 1024), huge(1, 1024)
    last = whole(LAST, 1024)
    weight[-LAST:] = last
    x, grad, found = whole(1, 1024, seed=1) / 64, np.ones(1, np.float32), []
    for w in (weight, last):
        loss, lse = np.empty(1, np.float32), np.empty(1, np.float32)
        target, kept = np.array([len(w) - 1]), np.empty((0, 1), np.float32)
        cpu.linear_cross_entropy_forward(x, w, target, -100, 0.0, loss, lse, kept)
        found.append((loss, lse))
    (loss, lse), (last_loss, last_lse) = found
    assert np.allclose(lse, np.logaddexp(np.log(len(weight) - LAST), last_lse), rtol=1e-5)
    assert np.allclose(lse - loss, last_lse - last_loss, atol=1e-4)  # the logit of the target
    found = []
    for w, dw in ((weight, dweight), (last, np.empty_like(last))):
        dx, target = np.empty_like(x), np.array([len(w) - 1])
        cpu.linear_cross_entropy_backward(
            grad, x, w, target, lse, kept, -100, 0.0, dx, dw, (False, False)
        )
        found.append((dw[-LAST:],))
    assert same_bits(*found)


def test_the_gradient_of_a_long_embedding(huge):
    grad = huge(0, 1024)
    ids, dweight = np.zeros(len(grad), np.int64), np.empty((LAST + 1, 1024), np.float32)
    grad[-LAST:], ids[-LAST:] = whole(LAST, 1024), range(1, LAST + 1)
    cpu.embedding_backward(grad, ids, dweight, False)
    assert np.array_equal(dweight, [per_row(1024), *grad[-LAST:]])


def test_the_gradient_of_a_large_embedding():
    rows, last = PAST // 1024, whole(LAST, 1024)
    dweight = np.ndarray((rows, 1024), np.float32, addresses(rows * 4096))
    cpu.embedding_backward(last, np.arange(rows - LAST, rows), dweight, True)
    assert np.array_equal(dweight[-LAST:], last)


def test_the_norm_of_a_gradient(huge):
    x, out = huge(0, 1), np.empty((), np.float32)
    x[-LAST:] = 3
    cpu.norm_forward([per_row(5), x], out)
    assert out == np.sqrt(np.float32(9 * LAST))


def test_adamw(huge):
    large = [huge(place, 1) for place in range(4)]
    small = [np.abs(whole(LAST, 1, seed=place)) for place in range(4)]
    for array, last in zip(large, small):
        array[-LAST:] = last
    for arrays in (large, small):
        cpu.adamw_forward(arrays, 0.1, 0.9, 0.95, 1e-8, 0.1, 3, 0.5)
    assert same_bits([array[-LAST:] for array in large], small)


def test_attention_on_joint_projections(huge):
    qkv, dqkv, heads, few = huge(0, 32, 192), huge(1, 32, 192), 2, 5
    last = normal(few, 32, 192)
    qkv[-few:] = last
    upstream, found = normal(few, 32, 64, seed=1), []
    for joint, djoint, take in (
        (qkv, dqkv, huge),
        (last, np.empty_like(last), lambda _, *row, rows: np.zeros((rows, *row), np.float32)),
    ):
        out, grad = (take(place, 32, 64, rows=len(joint)) for place in (2, 3))
        grad[-few:] = upstream
        lse = np.empty((len(joint), heads, 32), np.float32)
        cpu.packed_attention_forward(joint, True, 0.2, out, lse)
        cpu.packed_attention_backward(grad, joint, out, lse, True, 0.2, djoint)
        found.append((out[-few:], lse[-few:], djoint[-few:]))
    assert same_bits(*found)

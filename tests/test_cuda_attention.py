"""Attention on the GPU: tiles and their edges, both precisions, what is hidden or not finite."""

import itertools
import math
from contextlib import contextmanager

import numpy as np
import pytest

from cuda_device import library, needs_device
from minillm import testing
from minillm.arrays import new_generator
from minillm.ops import registry
from test_cuda import ORDERS, order

pytestmark = needs_device
OP = registry["scaled_dot_product_attention"]
PRECISIONS = {"f32": testing.EPS["float32"], "bf16": testing.EPS["bf16"]}
each_precision = pytest.mark.parametrize("precision", PRECISIONS)


@contextmanager
def products_in(precision):
    library.runtime.set_bf16(precision == "bf16")
    try:
        yield
    finally:
        library.runtime.set_bf16(False)


def normal(*shape, seed=0):
    return new_generator(seed, *shape).standard_normal(shape, dtype=np.float32)


def operands(batch=1, heads=2, kv_heads=1, rows=3, keys=3, d=4, value_d=4):
    q, k = normal(batch, heads, rows, d), normal(batch, kv_heads, keys, d, seed=1)
    return [q, k, normal(batch, kv_heads, keys, value_d, seed=2)]


def check(arrays, params, precision="f32"):
    truth = testing.reference(OP, arrays, params, eps=PRECISIONS[precision])
    provider = testing.providers(OP)[-1]
    for seed in ORDERS[:2]:
        order(seed)
        with products_in(precision):
            testing.check_case(truth, provider, provider)
        assert provider.served


@each_precision
@pytest.mark.parametrize("d, value_d", [(1, 1), (31, 33), (64, 64), (8, 65), (128, 127), (40, 130)])
def test_heads_of_every_size(d, value_d, precision, under_test):
    check([*operands(rows=35, keys=70, d=d, value_d=value_d), None], {"causal": True}, precision)


@each_precision
@pytest.mark.parametrize("rows, keys", [(1, 99), (5, 130), (16, 64), (17, 65), (129, 1), (128, 64)])
@pytest.mark.parametrize("causal, offset", [(False, 0), (True, 0), (True, 70)])
def test_edges_of_tiles(rows, keys, causal, offset, precision, under_test):
    arrays = operands(heads=4, kv_heads=2, rows=rows, keys=keys, d=20, value_d=20)
    check([*arrays, None], {"causal": causal, "offset": offset}, precision)


@each_precision
@pytest.mark.parametrize("kind", [bool, np.float32])
@pytest.mark.parametrize("axes", [(2, 4, 33, 70), (2, 1, 1, 70), (1, 4, 33, 1), (1, 1, 1, 1)])
def test_masks(kind, axes, precision, under_test):
    arrays = operands(batch=2, heads=4, kv_heads=2, rows=33, keys=70, d=16, value_d=8)
    mask = new_generator(3).random(axes) < 0.7 if kind is bool else normal(*axes, seed=3)
    if kind is not bool:
        mask[..., -1:] = -np.inf
    check([*arrays, mask], {"causal": True, "offset": 30}, precision)


@each_precision
@pytest.mark.parametrize("scale", [-0.5, 0.0, 3.0])
def test_every_scale(scale, precision, under_test):
    check([*operands(rows=33, keys=40, d=32), None], {"scale": scale, "causal": True}, precision)


def both(arrays, params):
    """Results and gradients by the library, and by the definition in float64."""
    found = []
    upstream = normal(*arrays[0].shape[:3], arrays[2].shape[3], seed=4)
    upstream[:, :, 0] = arrays[0][:, :, 0, :1]  # not finite where the query is not
    for provider, dtype in ((testing.providers(OP)[-1], "float32"), (None, "float64")):
        arrays = testing.cast(arrays, dtype)
        chosen = provider or testing.Provider("truth", OP)
        with np.errstate(invalid="ignore", over="ignore"):
            out, saved = chosen.forward(arrays, params)
            grads = chosen.backward(upstream.astype(dtype), saved, params)
        found.append([out, saved[5], *grads[:3]])
    return found


# 3e38 is finite, but the nearest bfloat16 is not, nor what it is multiplied by if seen.
WILD = [*itertools.product((math.nan, math.inf, -math.inf), (True, False)), (3e38, True)]


@each_precision
@pytest.mark.parametrize("wild, hidden", WILD)
@pytest.mark.parametrize("place", ["q", "k", "v", "all"])
@pytest.mark.parametrize("rows, d", [(3, 4), (12, 4), (12, 129)])
def test_what_is_not_finite_shows_where_it_is_seen(
    rows, d, place, wild, hidden, precision, under_test
):
    """At position 0 of the first batch; hidden by a mask, or seen by one query of two heads."""
    arrays = operands(batch=2, rows=rows, keys=rows, d=d, value_d=d)
    for name, array in zip("qkv", arrays):
        if place in (name, "all"):
            array[0, :, 0, 1] = wild
    mask = np.ones((1, 1, rows, rows), bool)
    mask[..., 0] = False
    mask[..., 0, :] = False
    if not hidden:
        mask[..., 2, 0] = True
    with products_in(precision):
        found, truth = both([*arrays, mask], {"causal": True})
    for got, right in zip(found, truth):
        finite = np.isfinite(right)
        assert np.array_equal(got[~finite], right[~finite], equal_nan=True)
        size = max(1.0, np.abs(right[finite]).max(initial=0.0))
        assert np.abs(got[finite] - right[finite]).max(initial=0.0) < 0.05 * size


@each_precision
def test_a_query_that_sees_nothing_gives_0_and_takes_no_gradient(precision, under_test):
    mask = np.ones((1, 1, 40, 70), bool)
    mask[..., :20, :] = False
    mask[..., 33, :] = False
    with products_in(precision):
        arrays = [*operands(rows=40, keys=70, d=64, value_d=64), mask]
        found, _ = both(arrays, {"causal": False})
    out, lse, dq = found[:3]
    unseen = [*range(20), 33]
    assert (out[:, :, unseen] == 0).all() and (dq[:, :, unseen] == 0).all()
    assert (lse[:, :, unseen] == -np.inf).all()
    assert (out[:, :, 20:33] != 0).all()


@each_precision
@pytest.mark.parametrize(
    "axes, d, causal",
    [
        ((1, 2, 70, 40), 33, False),  # as T5's bias: of each head, shared by a batch
        ((2, 1, 70, 40), 8, True),
        ((1, 1, 1, 40), 65, False),
        ((2, 2, 70, 1), 129, False),
    ],
)
def test_a_mask_learns(axes, d, causal, precision, under_test):
    arrays = operands(batch=2, heads=2, kv_heads=1, rows=70, keys=40, d=d, value_d=d)
    check([*arrays, normal(*axes, seed=3)], {"causal": causal, "scale": d**-0.5}, precision)


def test_least_numbers_of_a_mask_hide_nothing_where_there_are_only_they(under_test):
    mask = np.full((1, 1, 3, 3), np.finfo(np.float32).min)
    mask[..., 1, 2] = mask[..., 2, 0] = 0
    arrays = [*operands(), mask]
    found = testing.providers(OP)[-1].forward(arrays, {})[0]
    truth = testing.Provider("truth", OP).forward(testing.cast(arrays, "float64"), {})[0]
    assert np.abs(found - truth).max() < 1e-6


@each_precision
@pytest.mark.parametrize(
    "rows, offset, window, d, masked",
    [
        (150, 0, 1, 8, False),
        (150, 0, 70, 33, True),
        (70, 60, 64, 65, False),
        (9, 90, 30, 8, False),
        (5, 50, 3, 8, True),
        (70, 400, 20, 8, False),  # no query sees a key
        (20, 30, 7, 129, True),
    ],
)
def test_windows(rows, offset, window, d, masked, precision, under_test):
    arrays = operands(heads=2, kv_heads=1, rows=rows, keys=140, d=d, value_d=d)
    mask = new_generator(3).random((1, 1, rows, 140)) < 0.7 if masked else None
    params = {"causal": True, "offset": offset, "window": window}
    check([*arrays, mask], params, precision)


@each_precision
def test_the_order_of_threads_changes_no_bit(precision, under_test):
    found = []
    for seed, _ in itertools.product(ORDERS, range(2)):
        order(seed)
        with products_in(precision):
            arrays = [*operands(heads=4, rows=70, keys=70, d=24, value_d=24), None]
            found.append(b"".join(a.tobytes() for a in both(arrays, {"causal": True})[0]))
    assert len(set(found)) == 1

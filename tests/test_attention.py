"""Attention against a second, naive algorithm: masks, groups, prefixes and what may not leak."""

import math
import warnings

import numpy as np
import pytest

from minillm import Tensor, kernels, ops

NAN, INF = math.nan, math.inf
attention = ops.scaled_dot_product_attention


@pytest.fixture(params=["reference", "auto"], autouse=True)
def provider(request):
    if request.param == "auto" and kernels.cpu is None:
        pytest.skip("the C++ extension is not installed")
    with kernels.use(request.param), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield request.param


def naive(q, k, v, visible, scale=None, bias=None):
    """Query by query, in float64; `visible(b, h, i, j)` says which keys a query sees."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros((*q.shape[:3], v.shape[3]))
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    for b, h, i in np.ndindex(*q.shape[:3]):
        group = h * k.shape[1] // q.shape[1]
        seen = [j for j in range(k.shape[2]) if visible(b, h, i, j)]
        scores = [float(q[b, h, i] @ k[b, group, j]) * scale for j in seen]
        if bias is not None:
            scores = [score + bias[b, h, i, j] for score, j in zip(scores, seen)]
        weights = [math.exp(score - max(scores)) for score in scores]
        for weight, j in zip(weights, seen):
            out[b, h, i] += weight / sum(weights) * v[b, group, j]
    return out


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def leaves(*values):
    return [Tensor(value, requires_grad=True) for value in values]


def close(got, expected):
    np.testing.assert_allclose(got.data if isinstance(got, Tensor) else got, expected, atol=2e-6)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("causal, offset", [(False, 0), (True, 0), (True, 4)])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_it_equals_the_naive_algorithm(kv_heads, causal, offset, mask):
    q, k, v = arrays((2, 6, 5, 4), (2, kv_heads, 9, 4), (2, kv_heads, 9, 3))
    rng = np.random.default_rng(1)
    allowed = rng.random((2, 6, 5, 9)) < (0.5 if mask == "bool" else 2)
    bias = rng.standard_normal((2, 6, 5, 9)) if mask == "float" else None
    given = {None: None, "bool": allowed, "float": bias}[mask]
    given = given.astype(np.float32) if mask == "float" else given
    out = attention(q, k, v, given, causal=causal, offset=offset)
    close(out, naive(q, k, v, lambda b, h, i, j: allowed[b, h, i, j]
                     and (not causal or j <= i + offset), bias=bias))  # fmt: skip


@pytest.mark.parametrize("window", [1, 3, 9])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("offset", [0, 4])
def test_of_the_keys_before_it_a_query_sees_a_window(window, hidden, offset):
    q, k, v = arrays((2, 6, 5, 4), (2, 2, 9, 4), (2, 2, 9, 3))
    allowed = np.random.default_rng(1).random((2, 1, 5, 9)) < (0.7 if hidden else 2)
    mask = allowed if hidden else None
    out = attention(q, k, v, mask, causal=True, offset=offset, window=window)
    close(out, naive(q, k, v, lambda b, h, i, j: allowed[b, 0, i, j]
                     and i + offset - window < j <= i + offset))  # fmt: skip


def test_the_scale_is_free():
    q, k, v = arrays((1, 1, 3, 4), (1, 1, 3, 4), (1, 1, 3, 4))
    everything = lambda *place: True  # noqa: E731
    close(attention(q, k, v, scale=1.0), naive(q, k, v, everything, 1.0))
    close(attention(q, k, v), naive(q, k, v, everything, 0.5))


def test_a_group_of_queries_shares_its_key_head():
    """The same as repeating keys and values; their gradients are the sums over the group."""
    q, k, v = arrays((2, 6, 4, 3), (2, 2, 5, 3), (2, 2, 5, 3))
    upstream = arrays((2, 6, 4, 3), seed=1)[0]
    few = leaves(q, k, v)
    many = leaves(q, np.repeat(k, 3, axis=1), np.repeat(v, 3, axis=1))
    results = [attention(*inputs, causal=True, offset=1) for inputs in (few, many)]
    for result in results:
        result.backward(upstream)
    close(results[0], results[1].data)
    close(few[0].grad, many[0].grad.data)
    for one, repeated in zip(few[1:], many[1:]):
        close(one.grad, repeated.grad.data.reshape(2, 2, 3, 5, 3).sum(axis=2))


def test_a_prefix_in_the_cache_changes_nothing():
    q, k, v = arrays((1, 2, 70, 8), (1, 2, 70, 8), (1, 2, 70, 8))
    whole = attention(q, k, v, causal=True).data
    for start in (1, 40, 69):
        tail = attention(q[:, :, start:], k, v, causal=True, offset=start)
        close(tail, whole[:, :, start:])
        head = attention(*(a[:, :, :start] for a in (q, k, v)), causal=True)
        close(head, whole[:, :, :start])


FUTURE = ~np.tri(3, dtype=bool)[None, None]
PADDING = np.array([True, False, False]).reshape(1, 1, 1, 3)  # the first key


def as_bool():
    return {"mask": ~PADDING, "causal": True}


def as_additive():
    return {"mask": np.where(PADDING | FUTURE, -INF, 0).astype(np.float32)}


def as_mixture():
    return {"mask": np.where(PADDING, -INF, 0).astype(np.float32), "causal": True}


def run(q, k, v, mask, **options):
    """The output, and the gradients of q, k and v."""
    inputs = leaves(q, k, v)
    out = attention(*inputs, mask, **options)
    out.backward(np.ones(out.shape, np.float32))
    return out.data, *(leaf.grad.data for leaf in inputs)


@pytest.mark.parametrize("options", [as_bool, as_additive, as_mixture])
def test_a_query_that_sees_nothing_gives_0_and_takes_no_gradient(options):
    q, k, v = arrays((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4))
    out, dq, dk, dv = run(q, k, v, **options())
    close(out, naive(q, k, v, lambda b, h, i, j: 1 <= j <= i))
    assert (out[:, :, 0] == 0).all()
    assert (dq[:, :, 0] == 0).all()
    assert (dk[:, :, 0] == 0).all() and (dv[:, :, 0] == 0).all()
    assert all(np.isfinite(a).all() for a in (out, dq, dk, dv))


@pytest.mark.parametrize("options", [as_bool, as_additive, as_mixture])
@pytest.mark.parametrize("wild", [NAN, INF, -INF])
@pytest.mark.parametrize("place", ["k", "v", "k and v", "all"])
def test_what_a_mask_hides_does_not_leak(options, wild, place):
    """Position 0 is padding: its key is hidden from all, and its query sees nothing."""
    q, k, v = arrays((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4))
    clean = run(q, k, v, **options())
    for name, array in (("q", q), ("k", k), ("v", v)):
        if name in place or place == "all":
            array[:, :, 0, 1] = wild
    with np.errstate(invalid="ignore"):  # inf - inf on the way, as NumPy may remark
        results = run(q, k, v, **options())
    for got, right in zip(results, clean):
        close(got, right)


@pytest.mark.parametrize("wild", [NAN, INF])
def test_the_future_does_not_leak_into_the_past(wild):
    q, k, v = arrays((1, 1, 4, 4), (1, 1, 4, 4), (1, 1, 4, 4))
    clean = attention(q, k, v, causal=True).data
    k[:, :, 3], v[:, :, 3] = wild, wild
    with np.errstate(invalid="ignore"):
        spoilt = attention(q, k, v, causal=True).data
    close(spoilt[:, :, :3], clean[:, :, :3])
    if math.isnan(wild):
        assert np.isnan(spoilt[:, :, 3]).all()


def test_a_nan_upstream_of_a_query_that_sees_nothing_does_not_leak():
    q, k, v = arrays((1, 1, 3, 4), (1, 1, 3, 4), (1, 1, 3, 4))
    grads = []
    for first in (0, NAN):
        inputs = leaves(q, k, v)
        upstream = np.ones((1, 1, 3, 4), np.float32)
        upstream[:, :, 0] = first
        attention(*inputs, ~PADDING, causal=True).backward(upstream)
        grads.append([leaf.grad.data for leaf in inputs])
    for clean, got in zip(*grads):
        close(got, clean)


def test_visible_nan_shows():
    q, k, v = arrays((1, 1, 2, 4), (1, 1, 2, 4), (1, 1, 2, 4))
    v[0, 0, 0, 0] = NAN
    assert np.isnan(attention(q, k, v, causal=True).data[..., 0]).all()


def test_very_large_scores_stay_finite():
    q, k, v = arrays((1, 1, 2, 4), (1, 1, 3, 4), (1, 1, 3, 4))
    out, *grads = run(100 * q, 100 * k, v, None)
    close(out, naive(100 * q, 100 * k, v, lambda *place: True))
    assert all(np.isfinite(grad).all() for grad in grads)


def test_no_keys_give_0():
    q, k, v = arrays((1, 2, 3, 4), (1, 2, 0, 4), (1, 2, 0, 5))
    out, dq, dk, dv = run(q, k, v, None)
    assert out.shape == (1, 2, 3, 5)
    assert (out == 0).all() and (dq == 0).all()
    assert dk.shape == k.shape and dv.shape == v.shape


def test_an_additive_mask_learns():
    """A gradient of the mask, summed where it was broadcast: the slope of the output."""
    q, k, v = arrays((2, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4))
    bias = leaves(arrays((1, 2, 1, 3), seed=3)[0].astype(np.float64))[0]
    inputs = [a.astype(np.float64) for a in (q, k, v)]
    attention(*inputs, bias, causal=True).sum().backward()
    step = np.zeros(bias.shape)
    step[0, 1, 0, 2] = 1e-6
    ends = [attention(*inputs, bias.data + s * step, causal=True).sum().item() for s in (1, -1)]
    assert abs((ends[0] - ends[1]) / 2e-6 - bias.grad.data[0, 1, 0, 2]) < 1e-7


@pytest.mark.parametrize(
    "shapes, options, message",
    [
        (((1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4)), {}, r"4 axes each are needed"),
        (((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 5)), {}, r"q \(1, 2, 3, 4\), k \(1, 2, 3, 5\)"),
        (((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 2, 4)), {}, r"v \(1, 2, 2, 4\)"),
        (((1, 3, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)), {}, "3 query heads are no multiple of 2"),
        (((1, 2, 3, 4),) * 3, {"offset": -1}, "offset -1"),
        (((1, 2, 3, 4),) * 3, {"mask": np.ones((3, 3), bool)}, r"mask \(3, 3\)"),
        (((1, 2, 3, 4),) * 3, {"mask": np.ones((1, 1, 3, 2), bool)}, r"mask \(1, 1, 3, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, options, message):
    options = {"mask": None} | options
    with pytest.raises(ValueError, match=f"scaled_dot_product_attention: .*{message}"):
        attention(*arrays(*shapes), options.pop("mask"), **options)


def test_a_mask_of_whole_numbers_is_refused():
    with pytest.raises(TypeError, match="mask of dtype int64, bool or float is needed"):
        attention(*arrays(*((1, 1, 2, 2),) * 3), np.ones((1, 1, 2, 2), np.int64))


def in_heads(array, heads):
    """(B, T, H D) as (B, H, T, D)."""
    return np.stack(np.split(array, heads, axis=2), axis=1)


@pytest.mark.parametrize("kv_heads", [None, 1, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_packed_heads_equal_the_naive_algorithm(kv_heads, causal):
    keys = kv_heads or 6
    (qkv,) = arrays((2, 5, (6 + 2 * keys) * 4))
    q, k, v = (
        in_heads(part, part.shape[2] // 4)
        for part in np.split(qkv, (6 * 4, (6 + keys) * 4), axis=2)
    )
    expected = naive(q, k, v, lambda b, h, i, j: not causal or j <= i)
    out = ops.packed_attention(qkv, heads=6, kv_heads=kv_heads, causal=causal)
    close(in_heads(out.data, 6), expected)


def test_packed_heads_take_the_gradients_of_their_parts():
    (qkv,) = arrays((2, 5, 6 * 4))
    joint, *parts = leaves(qkv, *(in_heads(part, 2) for part in np.split(qkv, 3, axis=2)))
    (upstream,) = arrays((2, 5, 2 * 4), seed=1)
    ops.packed_attention(joint, heads=2).backward(upstream)
    attention(*parts, causal=True).backward(in_heads(upstream, 2))
    for got, part in zip(np.split(joint.grad.data, 3, axis=2), parts):
        close(in_heads(got, 2), part.grad.data)


def test_the_packed_future_does_not_leak_into_the_past():
    (qkv,) = arrays((1, 4, 3 * 4))
    clean = ops.packed_attention(qkv, heads=1).data
    qkv[:, 3, 4:] = NAN
    with np.errstate(invalid="ignore"):
        spoilt = ops.packed_attention(qkv, heads=1).data
    close(spoilt[:, :3], clean[:, :3])
    assert np.isnan(spoilt[:, 3]).all()


@pytest.mark.parametrize("wild", [NAN, INF, -INF])
@pytest.mark.parametrize("feature", [16, 17, 26])  # keys of both heads, a value
@pytest.mark.parametrize("place", [0, 30, 39])
def test_packed_heads_hide_what_the_reference_hides(provider, wild, feature, place):
    (qkv,), (upstream,) = arrays((2, 40, 32)), arrays((2, 40, 16), seed=1)
    np.abs(qkv[:, :, :16], out=qkv[:, :, :16])  # a key of -inf has no weight
    qkv[1, place, feature] = wild
    found = []
    for served_by in (provider, "reference"):
        (joint,) = leaves(qkv)
        with kernels.use(served_by), np.errstate(invalid="ignore", over="ignore"):
            out = ops.packed_attention(joint, heads=4, kv_heads=2)
            out.backward(upstream)
        found.append((out.data, joint.grad.data))
    for ours, truth in zip(*found):
        close(ours, truth)


@pytest.mark.parametrize(
    "shape, options, message",
    [
        ((2, 12), {"heads": 2}, r"qkv \(2, 12\).*= 6 heads"),
        ((1, 2, 13), {"heads": 2}, r"qkv \(1, 2, 13\).*= 6 heads"),
        ((1, 2, 0), {"heads": 2}, "at least 1 feature"),
        ((1, 2, 12), {"heads": 0}, "heads 0"),
        ((1, 2, 14), {"heads": 3, "kv_heads": 2}, "heads 3 and kv_heads 2"),
    ],
)
def test_packed_shapes_that_do_not_fit_are_refused(shape, options, message):
    with pytest.raises(ValueError, match=f"packed_attention: .*{message}"):
        ops.packed_attention(*arrays(shape), **options)

"""Every kernel for the GPU against the float64 truth. No op is named but where sizes matter."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuda_device import device, library, needs_device
from layouts import LAYOUTS
from minillm import testing
from minillm.arrays import new_generator
from minillm.blocks import KINDS
from minillm.ops import registry
from minillm.ops.block_linear import random_blocks
from test_ops import HypothesisDraw, Small, cases_of_each_length, few

pytestmark = needs_device
CLAIMED = [op for op in registry.values() if any(op.kernels(library))]
each_claimed = pytest.mark.parametrize("op", CLAIMED, ids=lambda op: op.name)
ORDERS = (0, 1, 2, 3) if device is not None and device.name == "cuda on host" else (None,)


def order(seed):
    """Threads run in an order drawn from `seed`, where that can be chosen."""
    if seed is not None:
        library.runtime.set_order(seed)


@each_claimed
@given(data=st.data())
@few(20)
def test_providers_agree_with_the_truth_and_serve_each_others_gradients(op, under_test, data):
    draw = HypothesisDraw(data)
    draw.large = 1  # the host is slow at playing a GPU
    arrays, params = op.sample(draw)
    arrays = testing.cast(arrays, "float32")
    lay = LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)))]
    order(data.draw(st.sampled_from(ORDERS)))
    truth = testing.reference(op, arrays, params, data.draw(st.integers(0, 999)))
    *others, provider = testing.providers(op)
    assert provider.device is under_test
    testing.check_case(truth, provider, provider, lay)
    for other in others:
        testing.check_case(truth, provider, other, lay)
        testing.check_case(truth, other, provider, lay)


@each_claimed
def test_every_axis_may_have_any_length(op, under_test):
    layouts, orders = itertools.cycle(LAYOUTS.values()), itertools.cycle(ORDERS)
    for truth in cases_of_each_length(op):
        provider = testing.providers(op)[-1]
        order(next(orders))
        testing.check_case(truth, provider, provider, next(layouts))


@each_claimed
def test_what_the_library_claims_it_serves(op, under_test):
    provider = testing.providers(op)[-1]
    forward = backward = 0
    for seed in range(12):
        arrays, params = op.sample(Small(seed))
        arrays = testing.cast(arrays, "float32")
        outs, saved = testing.outputs(op, provider, arrays, params)
        forward, provider.served = forward + provider.served, 0
        if op.backward is not None:
            provider.backward(np.ones(outs[0].shape, np.float32), saved, params)
        backward, provider.served = backward + provider.served, 0
    shims = op.kernels(library)
    assert (forward > 0, backward > 0) == (shims[0] is not None, shims[1] is not None)


def test_every_exported_function_belongs_to_an_op():
    public = {name for name in dir(library) if not name.startswith("_")} - {"runtime", "on_host"}
    assert public
    for name in public:
        op, direction = name.rsplit("_", 1)
        assert op in registry and direction in ("forward", "backward"), name
        assert registry[op].kernels(library)[direction == "backward"] is not None, name


def normal(*shape):
    return new_generator(*shape).standard_normal(shape, dtype=np.float32)


MANY = [1 + i % 3 for i in range(70)] + [9000, 5, 0, 8193]
# Rows of a warp, of a block, kept in registers or not, moved by fours or not.
LENGTHS = (260, 600, 1023, 1030, 1100, 4100, 8196, 8199)


def norm_case(name, rows, cols):
    weights = [normal(cols), normal(cols)][: 2 if name == "layer_norm" else 1]
    return name, [normal(rows, cols), *weights], {}


def loss_case(rows, classes):
    target = new_generator(classes).integers(0, classes, rows)
    target[1] = -100
    return "cross_entropy", [3 * normal(rows, classes), target], {"label_smoothing": 0.1}


def embedding_case(rows, ids, cols):
    return "embedding", [normal(rows, cols), np.asarray(ids)], {}


def adamw_case(sizes):
    arrays = [normal(size) for size in sizes for _ in range(4)]
    for v in arrays[3::4]:
        np.abs(v, out=v)
    rates = {"lr": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    return "adamw", arrays, {**rates, "step": 3, "grad_scale": 0.5}


def adamw8bit_case(sizes):
    rng, arrays = new_generator(len(sizes)), []
    for size in sizes:
        scales = -(-size // 256)
        m = rng.integers(-127, 128, size, np.int8)
        v = rng.integers(0, 256, size, np.uint8)
        arrays += [normal(size), normal(size), m, abs(normal(scales)), v, abs(normal(scales))]
    return "adamw8bit", arrays, adamw_case([])[2]


def sgd_case(sizes):
    arrays = [normal(size) for size in sizes for _ in range(3)]
    rates = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "grad_scale": 0.5}
    return "sgd", arrays, rates


def lerp_case(sizes):
    return "lerp", [normal(size) for size in sizes for _ in range(2)], {"weight": 0.1}


def muon_case(shapes, **options):
    rng = new_generator(len(shapes))
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes for _ in range(3)]
    rates = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "eps": 1e-7}
    rates |= {"ns_steps": 3, "adjust_lr_fn": "match_rms_adamw", "grad_scale": 0.5}
    return "muon", arrays, rates | options


def block_case(kind, rows):
    width = 300 if KINDS[kind].elements == 1 else 512
    blocks = random_blocks(testing.Draw(rows), kind, 9, width)
    return "block_linear", [normal(rows, width), blocks, normal(9), normal(rows, 9)], {"kind": kind}


LARGE = {
    **{f"softmax {n}": ("softmax", [normal(3, n)], {}) for n in LENGTHS},
    **{f"log_softmax {n}": ("log_softmax", [normal(3, n)], {}) for n in LENGTHS},
    **{f"layer_norm {n}": norm_case("layer_norm", 3, n) for n in LENGTHS},
    **{f"rms_norm {n}": norm_case("rms_norm", 3, n) for n in LENGTHS},
    "layer_norm of chunks of rows": norm_case("layer_norm", 75, 24),
    "layer_norm of chunks of odd rows": norm_case("layer_norm", 75, 23),
    **{f"cross_entropy {n}": loss_case(3, n) for n in LENGTHS},
    "layer_norm of pairs": ("layer_norm", [normal(64, 2), None, None], {"eps": 1e-12}),
    "one id": embedding_case(7, [3] * 133, 12),
    "two ids": embedding_case(9, [8] * 40 + [2] * 57 + [8] * 37, 5),
    "ids of two digits": embedding_case(700, new_generator(1).integers(0, 700, 2100), 4),
    **{f"{rows} rows of {kind}": block_case(kind, rows) for kind in KINDS for rows in (1, 7, 33)},
    "many arrays": adamw_case(MANY),
    "many arrays of 8 bits": adamw8bit_case(MANY),
    "many arrays of sums": sgd_case(MANY),
    "many averages": lerp_case(MANY),
    "matrices of some shapes": muon_case([(12, 8), (8, 12), (0, 3), (12, 8), (70, 70), (8, 12)]),
    "as many as two tables": muon_case([(2, 4)] * 70, nesterov=False),
    "no step": muon_case([(5, 3), (4, 8)], ns_steps=0),
    "norm of many arrays": ("norm", [normal(1 + i % 3) for i in range(70)] + [normal(9001)], {}),
}


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE.keys())
def test_large_cases(case, under_test):
    name, arrays, params = case
    op = registry[name]
    if op not in CLAIMED:
        pytest.skip(f"the library has no kernel for {name}")
    truth = testing.reference(op, arrays, params)
    provider = testing.providers(op)[-1]
    for seed in ORDERS[:2]:
        order(seed)
        testing.check_case(truth, provider, provider)
    assert provider.served


@pytest.mark.parametrize(
    "case",
    [
        lambda layers: adamw_case([30, 7] * layers),
        lambda layers: adamw8bit_case([30, 7] * layers),
        lambda layers: sgd_case([30, 7] * layers),
        lambda layers: lerp_case([30, 7] * layers),
        lambda layers: muon_case([(8, 3), (3, 8)] * layers),
    ],
    ids=["adamw", "adamw8bit", "sgd", "lerp", "muon"],
)
def test_more_layers_are_updated_by_no_more_launches(case, under_test):
    if ORDERS == (None,):
        pytest.skip("a GPU does not count what it is asked for")
    counts = []
    for layers in (2, 12):
        name, arrays, params = case(layers)
        before = library.on_host.asked()
        testing.outputs(registry[name], testing.providers(registry[name])[-1], arrays, params)
        counts.append(library.on_host.asked() - before)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_have_the_bits_that_each_has_alone(kind, under_test):
    name, arrays, params = block_case(kind, 7)
    provider = testing.providers(registry[name])[-1]
    (together,), _ = testing.outputs(registry[name], provider, arrays, params)
    x, blocks, bias, residual = arrays
    for row in range(7):
        one = [x[row : row + 1], blocks, bias, residual[row : row + 1]]
        (alone,), _ = testing.outputs(registry[name], provider, one, params)
        assert alone.tobytes() == together[row].tobytes()


def test_ids_that_no_check_has_seen_harm_nothing(under_test):
    put, ids = under_test.put, np.array([-5, 1, 1 << 40, 3])
    grad, total = np.ones((4, 3), np.float32), np.zeros((3, 3), np.float32)
    there = put(total)
    library.embedding_backward(put(grad), put(ids), there, True)
    assert there.get().tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    losses, lse = put(np.zeros(4, np.float32)), put(np.zeros(4, np.float32))
    library.cross_entropy_forward(put(np.ones((4, 3), np.float32)), put(ids), -5, 0.0, losses, lse)
    assert np.isnan(losses.get()).tolist() == [False, False, True, True]


def test_arrays_of_the_host_are_refused():
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match=r"^an array on the GPU or None is needed, numpy.ndarray"):
        library.softmax_forward(x, x)

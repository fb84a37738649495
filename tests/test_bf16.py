"""Matrix products on operands rounded to bfloat16, where the processor multiplies those."""

import itertools

import numpy as np
import pytest

from layouts import LAYOUTS, OneLength
from minillm import kernels, testing
from minillm.arrays import new_generator
from minillm.ops import registry

pytestmark = pytest.mark.skipif(
    not kernels.has_bf16(), reason="this processor has no bfloat16 products (AMX)"
)

CLAIMED = [op for op in registry.values() if any(op.kernels(kernels.cpu))]


class Wide(testing.Draw):
    """Lengths for which tiles are used, whole ones and parts."""

    sizes = (16, 17, 32, 33, 48, 65)

    def size(self, name, low=0):
        return {"B": 2, "H": 4}.get(name) or super().size(name, low)


class Large(testing.Draw):
    def size(self, name, low=0):
        return {"B": 6, "H": 6, "T": 90, "C": 70, "D": 40, "V": 400, "N": 170}[name]


def rounded(array):
    """To the nearest bfloat16, ties to even, by the bits of the float32."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("shape", [(16, 16, 16), (33, 65, 70), (1100, 17, 40), (48, 1100, 31)])
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_a_product_is_that_of_the_rounded_operands(shape, transposed):
    m, k, n = shape
    rng = new_generator(m, k, n)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    a, b = a.astype(np.float32), b.astype(np.float32)
    left = a.T.copy().T if transposed[0] else a
    right = b.T.copy().T if transposed[1] else b
    exact = rounded(a).astype(np.float64) @ rounded(b).astype(np.float64)
    with kernels.precision("bf16"):
        out, _ = registry["matmul"].compute(left, right)
    assert np.abs(out - exact).max() <= 2.0**-21 * k
    assert np.abs(a.astype(np.float64) @ b - exact).max() > 1e-3  # what rounding them does


def test_outside_the_block_products_are_float32_again():
    a = new_generator(1).standard_normal((64, 64)).astype(np.float32)
    before, _ = registry["matmul"].compute(a, a)
    with kernels.precision("bf16"):
        inside, _ = registry["matmul"].compute(a, a)
        with kernels.precision("f32"):
            nested, _ = registry["matmul"].compute(a, a)
    after, _ = registry["matmul"].compute(a, a)
    assert np.array_equal(before, after) and np.array_equal(before, nested)
    assert not np.array_equal(before, inside)


@pytest.mark.parametrize("op", CLAIMED, ids=lambda op: op.name)
def test_providers_agree_with_the_truth_to_the_precision_of_bfloat16(op):
    for draw in [Wide(seed) for seed in range(12)] + [Large(seed) for seed in range(2)]:
        arrays, params = op.sample(draw)
        arrays = testing.cast(arrays, "float32")
        truth = testing.reference(op, arrays, params, eps=testing.EPS["bf16"])
        provider = testing.providers(op)[-1]
        with kernels.precision("bf16"):
            testing.check_case(truth, provider, provider)


class LongEnoughForTiles(OneLength):
    def other(self, name):
        return 2 if name in "BH" else self.choice((17, 33))


@pytest.mark.parametrize("op", CLAIMED, ids=lambda op: op.name)
def test_every_axis_may_have_any_length_in_any_layout(op):
    probe = [LongEnoughForTiles(seed) for seed in range(8)]
    for draw in probe:
        op.sample(draw)
    layouts, provider = itertools.cycle(LAYOUTS.values()), testing.providers(op)[-1]
    for name in sorted(set().union(*(draw.asked for draw in probe))):
        for seed, length in enumerate((0, 1, 3, 63, 65, 127)):
            arrays, params = op.sample(LongEnoughForTiles(seed, name, length))
            arrays = testing.cast(arrays, "float32")
            truth = testing.reference(op, arrays, params, seed, testing.EPS["bf16"])
            with kernels.precision("bf16"):
                testing.check_case(truth, provider, provider, next(layouts))


def feed_forward_case(rows, inner, hidden, outer):
    shapes = (rows, inner), (hidden, inner), (hidden,), (outer, hidden), (outer,), (rows, outer)
    rng = new_generator(rows, hidden)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def test_a_feed_forward_layer_on_several_chunks_of_rows():
    op, arrays = registry["feed_forward"], feed_forward_case(2100, 20, 50, 17)
    truth = testing.reference(op, arrays, {}, eps=testing.EPS["bf16"])
    provider = testing.providers(op)[-1]
    with kernels.precision("bf16"):
        testing.check_case(truth, provider, provider)


def test_the_loss_of_several_chunks_of_tokens_and_of_classes():
    rows, classes, width = 1030, 2110, 33
    rng = new_generator(2)
    target = rng.integers(0, classes, rows)
    target[::7] = -100
    arrays = [*(rng.standard_normal((n, width), dtype=np.float32) for n in (rows, classes)), target]
    op, params = registry["linear_cross_entropy"], {"label_smoothing": 0.1}
    truth = testing.reference(op, arrays, params, eps=testing.EPS["bf16"])
    provider = testing.providers(op)[-1]
    with kernels.precision("bf16"):
        testing.check_case(truth, provider, provider)


def test_hidden_rows_that_bypass_the_cache_are_the_same():
    rows, hidden, outer = 1100, 2048, 17  # enough of them, if they begin a line of memory
    arrays = feed_forward_case(rows, 20, hidden, outer)
    memory = np.empty(rows * hidden + 32, np.float32)
    first = -memory.ctypes.data % 64 // 4
    found = []
    for start in (first, first + 1):
        between = memory[start : start + rows * hidden].reshape(rows, hidden)
        out = np.empty((rows, outer), np.float32)
        with kernels.precision("bf16"):
            kernels.cpu.feed_forward_forward(*arrays, "gelu_tanh", between, out)
        found.append([between.tobytes(), out.tobytes()])
    assert found[0] == found[1]

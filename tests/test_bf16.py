"""Matrix products on operands rounded to bfloat16, where the processor multiplies those."""

import numpy as np
import pytest

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


@pytest.mark.parametrize("op", CLAIMED, ids=lambda op: op.name)
def test_results_do_not_depend_on_the_number_of_threads(op):
    arrays, params = op.sample(Large(1))
    arrays = testing.cast(arrays, "float32")
    before = kernels.threads()
    bits = []
    try:
        with kernels.precision("bf16"):
            for count in (1, 2, 3):
                kernels.set_threads(count)
                provider = testing.providers(op)[-1]
                outs, saved = testing.outputs(op, provider, arrays, params)
                if op.backward is not None:
                    upstream = np.ones(np.shape(outs[0]), np.float32)
                    outs += list(provider.backward(upstream, saved, params))
                bits.append([None if a is None else a.tobytes() for a in outs])
    finally:
        kernels.set_threads(before)
    assert bits[0] == bits[1] == bits[2]

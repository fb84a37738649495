"""Matrix products on a GPU: operands rounded to bfloat16, sizes that are cut into parts."""

import itertools
import sys
from types import ModuleType

import numpy as np
import pytest

from cuda_device import device, library, needs_device
from layouts import LAYOUTS, OneLength
from minillm import testing
from minillm.arrays import new_generator
from minillm.ops import registry

pytestmark = needs_device
NAMES = ("matmul", "linear", "feed_forward", "linear_cross_entropy", "muon")
each_name = pytest.mark.parametrize("name", NAMES)
TRANSPOSED = [(False, False), (True, False), (False, True), (True, True)]


@pytest.fixture
def bf16():
    library.runtime.set_bf16(True)
    yield
    library.runtime.set_bf16(False)


class Wide(testing.Draw):
    """More rows than a few, whole packs of columns and parts."""

    sizes = (9, 12, 17, 33, 40)

    def size(self, name, low=0):
        return {"B": 2, "H": 4}.get(name) or super().size(name, low)


class OneAmongWide(OneLength):
    def other(self, name):
        return 2 if name in "BH" else self.choice((12, 17))


def check(name, arrays, params, eps, lay=lambda array: array):
    op = registry[name]
    truth = testing.reference(op, arrays, params, eps=testing.EPS[eps])
    provider = testing.providers(op)[-1]
    assert provider.device is device
    testing.check_case(truth, provider, provider, lay)


def rounded(array):
    """To the nearest bfloat16, ties to even, by the bits of the float32."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("shape", [(16, 16, 16), (33, 65, 70), (40, 17, 11)])
@pytest.mark.parametrize("transposed", TRANSPOSED)
def test_a_product_is_that_of_the_rounded_operands(shape, transposed, under_test, bf16):
    m, k, n = shape
    rng = new_generator(m, k, n)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n)))
    left = a.T.copy().T if transposed[0] else a
    right = b.T.copy().T if transposed[1] else b
    exact = rounded(a).astype(np.float64) @ rounded(b).astype(np.float64)
    out, _ = testing.providers(registry["matmul"])[-1].forward((left, right), {})
    assert np.abs(out - exact).max() <= 2.0**-21 * k
    assert np.abs(a.astype(np.float64) @ b - exact).max() > 1e-3  # what rounding them does


@each_name
def test_they_agree_with_the_truth_to_the_precision_of_bfloat16(name, under_test, bf16):
    layouts = itertools.cycle(LAYOUTS.values())
    for seed in range(8):
        arrays, params = registry[name].sample(Wide(seed))
        check(name, testing.cast(arrays, "float32"), params, "bf16", next(layouts))


@each_name
def test_every_axis_may_have_any_length_in_bfloat16(name, under_test, bf16):
    op = registry[name]
    probe = [OneAmongWide(seed) for seed in range(8)]
    for draw in probe:
        op.sample(draw)
    layouts = itertools.cycle(LAYOUTS.values())
    for axis in sorted(set().union(*(draw.asked for draw in probe))):
        for seed, length in enumerate((0, 1, 3, 63)):
            arrays, params = op.sample(OneAmongWide(seed, axis, length))
            check(name, testing.cast(arrays, "float32"), params, "bf16", next(layouts))


def normal(*shape):
    return new_generator(*shape).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("width", [3, 4])
def test_the_sums_of_many_rows(width, under_test):
    """Parts of more than their least number of rows, in float32: nothing else rounds."""
    arrays = [normal(2117, 2), normal(width, 2), normal(width), None]
    check("linear", arrays, {}, "float32")


@pytest.mark.parametrize("classes", [40, 43])
def test_the_loss_of_several_parts_of_the_rows(classes, under_test):
    rows, width = 70, 5
    target = new_generator(rows).integers(0, classes, rows)
    target[::7] = -100
    arrays = [normal(rows, width), normal(classes, width), target]
    check("linear_cross_entropy", arrays, {"label_smoothing": 0.1}, "float32")


def test_a_loss_is_exact_where_one_class_has_nearly_all(under_test):
    x, weight = np.eye(1, dtype=np.float32), np.array([[30], [0], [1]], np.float32)
    loss, _ = testing.providers(registry["linear_cross_entropy"])[-1].forward(
        (x, weight, np.array([0])), {}
    )
    exact = np.log1p(np.exp(-30.0) + np.exp(-29.0))
    assert abs(loss / exact - 1) < 1e-5


def test_cupy_is_asked_where_its_cublas_is(monkeypatch):
    """By the attribute of its package, which is what makes it look for the library."""
    if device.name != "cuda on host":
        pytest.skip("CuPy has been asked already")
    asked = []
    libs = ModuleType("cupy_backends.cuda.libs")
    libs.__path__ = []
    libs.__getattr__ = lambda name: asked.append(name) or ModuleType(name)
    parents = {name: ModuleType(name) for name in ("cupy_backends", "cupy_backends.cuda")}
    for name, module in (parents | {libs.__name__: libs}).items():
        monkeypatch.setitem(sys.modules, name, module)
    assert library.runtime.has_products() and "cublas" in asked


def test_no_logits_are_kept(under_test):
    arrays = [normal(12, 5), normal(7, 5), np.arange(12) % 7]
    _, saved = testing.providers(registry["linear_cross_entropy"])[-1].forward(arrays, {})
    assert saved[-1].size == 0

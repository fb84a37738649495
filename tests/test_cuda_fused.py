"""What cuBLASLt does on a product's way: how much work that leaves, and that the results stay."""

import contextlib

import numpy as np
import pytest

from cuda_device import device, library, needs_device
from layouts import LAYOUTS
from minillm import testing
from minillm.arrays import new_generator
from minillm.ops import registry

pytestmark = needs_device
on_host = pytest.mark.skipif(
    device is None or device.name != "cuda on host", reason="a GPU does not count its work"
)
GRADS = {"linear": 3, "feed_forward": 5}  # the first gradients, all but that of a residual


def normal(*shape):
    return new_generator(*shape).standard_normal(shape, dtype=np.float32)


def linear(rows, inner, outer):
    return "linear", [normal(rows, inner), normal(outer, inner), normal(outer)], {}


def feed_forward(activation, rows, inner, hidden, outer, biases=True):
    arrays = [normal(rows, inner), normal(hidden, inner), normal(hidden)]
    arrays += [normal(outer, hidden), normal(outer)]
    if not biases:
        arrays[2] = arrays[4] = None
    return "feed_forward", arrays, {"activation": activation}


@contextlib.contextmanager
def precision(name):
    library.runtime.set_bf16(name == "bf16")
    try:
        yield
    finally:
        library.runtime.set_bf16(False)


def asked(case):
    """Launches, products and copies of forward, of backward, and of one that adds to totals."""
    name, arrays, params = case
    provider = testing.providers(registry[name])[-1]
    counts = [library.on_host.asked()]
    (out,), saved = testing.outputs(registry[name], provider, arrays, params)
    counts.append(library.on_host.asked())
    grads = provider.backward(out, saved, params)
    counts.append(library.on_host.asked())
    provider.backward(out, saved, params, list(grads[: GRADS[name]]))
    counts.append(library.on_host.asked())
    return tuple(np.diff(counts).tolist())


# A count in bfloat16 has the roundings of the factors: two of them forward, three backward.
@on_host
@pytest.mark.parametrize(
    "case, in_float32, in_bf16",
    [
        (linear(24, 16, 32), (1, 2, 3), (3, 5, 6)),
        (feed_forward("gelu_tanh", 24, 16, 32, 16), (2, 5, 7), (6, 9, 11)),
        (feed_forward("gelu_tanh", 24, 16, 32, 16, biases=False), (2, 5, 5), (6, 9, 9)),
        (feed_forward("gelu", 24, 16, 32, 16), (3, 5, 7), (6, 9, 11)),
        (feed_forward("gelu_tanh", 24, 16, 36, 16), (3, 5, 7), (6, 9, 11)),  # no stride for aux
        (linear(40, 16, 32), (1, 4, 4), (3, 7, 7)),  # a depth for which there is no algorithm
        (feed_forward("gelu_tanh", 40, 20, 32, 20), (3, 9, 9), (6, 13, 13)),
    ],
)
def test_how_much_work_there_is(case, in_float32, in_bf16, under_test):
    with precision("float32"):
        assert asked(case) == in_float32
    with precision("bf16"):
        assert asked(case) == in_bf16


@pytest.mark.parametrize("eps", testing.EPS)
@pytest.mark.parametrize(
    "case",
    [
        linear(24, 16, 32),
        linear(21, 9, 7),
        feed_forward("gelu_tanh", 24, 16, 32, 16),
        feed_forward("gelu_tanh", 17, 9, 8, 3),
        feed_forward("gelu_tanh", 33, 12, 24, 17, biases=False),
        feed_forward("gelu_tanh", 40, 20, 32, 20),
        feed_forward("gelu_tanh", 9, 4, 36, 7),
    ],
    ids=lambda case: f"{case[0]} {case[1][0].shape} {case[1][1].shape}",
)
def test_results_are_those_of_the_definition(case, eps, under_test):
    name, arrays, params = case
    provider = testing.providers(registry[name])[-1]
    truth = testing.reference(registry[name], arrays, params, eps=testing.EPS[eps])
    with precision(eps):
        for lay in LAYOUTS.values():
            testing.check_case(truth, provider, provider, lay)

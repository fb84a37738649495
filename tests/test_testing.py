"""The harness itself: it must reject code that is known to be wrong and pass code that is right."""

import copy
import itertools
import math
import types

import numpy as np
import pytest

from minillm import ops, testing
from minillm.ops import registry

GRADED = [op for op in registry.values() if op.backward is not None]
each_gradient = pytest.mark.parametrize("op", GRADED, ids=lambda op: op.name)


class Small(testing.Draw):
    sizes = (1, 2, 3, 5)


def served_by(op, *, forward=None, backward=None):
    """A provider whose library does what the two functions do, in place of the op's own shims."""
    library = types.ModuleType("broken")
    op = copy.copy(op)
    op._libraries = {}
    op._kernel_forward, op._kernel_backward = forward, backward
    for name, function in (("forward", forward), ("backward", backward)):
        if function is not None:
            setattr(library, f"{op.name}_{name}", function)
    return testing.Provider("broken", op, library)


def truth_of(op, *arrays, **params):
    return testing.reference(op, testing.cast(arrays, "float32"), params)


def randoms(*shapes):
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape) for shape in shapes]


def reject(truth, provider, message, backward=None):
    with pytest.raises(AssertionError, match=message):
        testing.check_case(truth, provider, backward)


def wrapped(op, change):
    """A forward shim: what the op gives, with `change(xp, out, inputs)` applied to the result."""

    def forward(lib, xp, *arrays, **params):
        right, saved = op.forward(np, *arrays, **params)
        out = xp.empty(right.shape, right.dtype)
        out[...] = right
        changed = change(xp, out, arrays)
        return (out if changed is None else changed), saved

    return forward


def test_a_faithful_library_passes():
    for op in (ops.softmax, ops.layer_norm, ops.exp):
        truth = truth_of(op, *randoms((5, 7)))
        provider = served_by(
            op,
            forward=wrapped(op, lambda xp, out, inputs: None),
            backward=lambda lib, xp, grad, saved, *totals, op=op: op.backward(np, grad, saved),
        )
        assert 0 < testing.check_case(truth, provider, provider) < 1
        assert provider.served == (6 if op.accumulates else 4)


def adding(change):
    """A library whose linear backward adds to the totals, then `change`s (gradients, totals)."""

    def backward(lib, xp, grad, saved, totals):
        grads = list(ops.linear.backward(np, grad, saved))
        for place, total in enumerate(totals):
            if total is not None:
                total += grads[place]
                grads[place] = total
        if totals:
            change(grads, totals)
        return grads

    return served_by(ops.linear, backward=backward)


def first(totals):
    return next((place, total) for place, total in enumerate(totals) if total is not None)


def forgotten(grads, totals):
    first(totals)[1][...] = 7


def apart_too(grads, totals):
    place, total = first(totals)
    grads[place] = total.copy()


def outside(grads, totals):
    total = first(totals)[1]
    np.lib.stride_tricks.as_strided(total, (total.size + 1,), (4,))[total.size] = 1


@pytest.mark.parametrize(
    "change, message",
    [
        (forgotten, "backward onto totals of broken, result .: off by"),
        (apart_too, "broken changed total . without returning it"),
        (outside, "wrote outside its output buffer"),
    ],
)
def test_a_backward_that_adds_wrongly_to_a_total_fails(change, message):
    truth = truth_of(ops.linear, *randoms((5, 3), (4, 3), (4,)))
    reference = testing.Provider("reference", ops.linear)
    assert 0 < testing.check_case(truth, reference, adding(lambda grads, totals: None)) < 1
    reject(truth, reference, message, adding(change))


class Changed:
    """NumPy with other functions in place of some."""

    def __init__(self, **functions):
        self.__dict__.update(functions)

    def __getattr__(self, name):
        return getattr(np, name)


def encoding(**functions):
    """adamw8bit's definition over a changed NumPy, as a library serves it."""
    return served_by(
        ops.adamw8bit,
        forward=lambda lib, xp, *arrays, **params: ops.adamw8bit.forward(
            Changed(**functions), *arrays, **params
        ),
    )


@pytest.mark.parametrize(
    "functions, result",
    [
        ({"rint": np.floor}, 1),  # codes of m that are cut off
        ({"rint": lambda x: np.rint(x) - (x > 100)}, 1),
        ({"maximum": lambda x, _: x}, 3),  # a mean square becomes nothing
        ({"sqrt": lambda x: x}, 0),
        ({"repeat": lambda x, n: np.repeat(np.roll(x, 1), n)}, 1),  # the scale of another block
    ],
)
def test_codes_that_are_not_the_nearest_fail(functions, result):
    arrays, params = ops.adamw8bit.sample(Small(3))
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 600)) * 10.0 ** rng.uniform(-3, 0, 600)
    m, v = rng.integers(-127, 128, 600).astype("int8"), np.zeros(600, "uint8")
    arrays = [*values, m, np.full(3, 1.0), v, np.array([0.5, 1.0, 2.0])]
    truth = truth_of(ops.adamw8bit, *arrays, **params)
    testing.check_case(truth, encoding())
    reject(truth, encoding(**functions), f"result {result}: off by")


def test_layer_norm_that_divides_by_d_minus_1_fails():
    def ddof_1(xp, out, inputs):
        out *= math.sqrt(63 / 64)

    truth = truth_of(ops.layer_norm, *randoms((4, 64)))
    provider = served_by(ops.layer_norm, forward=wrapped(ops.layer_norm, ddof_1))
    reject(truth, provider, r"off by 0\.0\d+ = \S+ units, 8 allowed")


def test_softmax_without_the_shift_fails_on_large_logits():
    def unshifted(lib, xp, x):
        with np.errstate(over="ignore", invalid="ignore"):
            out = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
        return out, (out,)

    (x,) = randoms((3, 5))
    provider = served_by(ops.softmax, forward=unshifted)
    testing.check_case(truth_of(ops.softmax, x), provider)
    reject(truth_of(ops.softmax, x + 100), provider, "off by inf")


def test_a_causal_mask_that_is_off_by_one_fails():
    op = ops.scaled_dot_product_attention
    arrays = randoms((1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 5, 4))

    def shifted(lib, xp, *inputs, causal, offset=0):
        return op.forward(np, *inputs, causal=causal, offset=offset + 1)

    reject(truth_of(op, *arrays, causal=True), served_by(op, forward=shifted), "off by")


def test_an_element_that_was_never_written_fails():
    def partly(lib, xp, x):
        out = xp.empty(x.shape, x.dtype)
        out[:-1] = np.exp(x[:-1])
        return out, (out,)

    reject(truth_of(ops.exp, *randoms((5,))), served_by(ops.exp, forward=partly), "off by inf")


@pytest.mark.parametrize("place", [-1, 1])
def test_a_write_beside_the_buffer_fails(place):
    def beside(xp, out, inputs):
        raw = out.base
        raw[testing.GUARD - 1 if place < 0 else testing.GUARD + out.nbytes] = 0

    provider = served_by(ops.exp, forward=wrapped(ops.exp, beside))
    reject(truth_of(ops.exp, *randoms((5,))), provider, "outside its output buffer")


def test_a_write_into_an_input_fails():
    def spoil(xp, out, inputs):
        inputs[0][0] = 0

    provider = served_by(ops.exp, forward=wrapped(ops.exp, spoil))
    reject(truth_of(ops.exp, *randoms((5,))), provider, "different bits")

    truth = truth_of(ops.exp, *randoms((5,)))
    right = np.exp(truth.arrays[0])

    def spoil_unseen(xp, out, inputs):
        out[...] = right
        inputs[0][0] = 0

    provider = served_by(ops.exp, forward=wrapped(ops.exp, spoil_unseen))
    reject(truth, provider, "wrote into its inputs")


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_another_dtype_fails(dtype):
    provider = served_by(
        ops.negative, forward=wrapped(ops.negative, lambda xp, out, inputs: out.astype(dtype))
    )
    truth = truth_of(ops.negative, np.array([1.0, 2.0]))
    reject(truth, provider, f"dtype {dtype}, float32 is needed")


def test_another_shape_fails():
    provider = served_by(ops.exp, forward=wrapped(ops.exp, lambda xp, out, inputs: out[None]))
    reject(truth_of(ops.exp, *randoms((5,))), provider, r"shape \(1, 5\) given, \(5,\) is needed")


def test_bits_that_change_from_call_to_call_fail():
    calls = []

    def flicker(xp, out, inputs):
        calls.append(None)
        out[0] = np.nextafter(out[0], np.float32(9), dtype=np.float32) if len(calls) % 2 else out[0]

    provider = served_by(ops.exp, forward=wrapped(ops.exp, flicker))
    reject(truth_of(ops.exp, *randoms((5,))), provider, "twice gave different bits")


def test_saved_values_of_another_convention_fail():
    def variance_for_rstd(lib, xp, x):
        out, (x, weight, has_bias, mean, rstd) = ops.layer_norm.forward(np, x)
        return out, (x, weight, has_bias, mean, 1 / rstd)

    reference = testing.Provider("reference", ops.layer_norm)
    provider = served_by(ops.layer_norm, forward=variance_for_rstd)
    truth = truth_of(ops.layer_norm, *randoms((4, 8)))
    testing.check_case(truth, provider)
    reject(truth, provider, "backward of reference", reference)


def broken_backward(op, change):
    def backward(lib, xp, grad, saved, **params):
        return change(list(op.backward(np, grad, saved, **params)), grad, saved)

    return served_by(op, backward=backward)


def a_few_ulps(array):
    return array * np.float32(1 + 2.0**-22 * next(counter))


counter = itertools.count()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda grads: grads[:1], "gave 1 results, 2 are needed"),
        (lambda grads: [grads[0], None], "None against a gradient"),
        (lambda grads: [grads[0].astype("float64"), grads[1]], "dtype float64"),
        (lambda grads: [grads[0], -grads[1]], "result 1: off by"),
        (lambda grads: [grads[0], np.full_like(grads[1], np.nan)], "result 1: off by inf"),
        (lambda grads: [a_few_ulps(grad) for grad in grads], "backward twice gave different bits"),
    ],
)
def test_a_broken_backward_fails(change, message):
    truth = truth_of(ops.multiply, *randoms((3, 4), (3, 4)))
    reference = testing.Provider("reference", ops.multiply)
    broken = broken_backward(ops.multiply, lambda grads, grad, saved: change(grads))
    reject(truth, reference, message, broken)


@pytest.mark.parametrize("place", ["saved", "upstream"])
def test_a_backward_that_writes_into_what_it_reads_fails(place):
    def spoil(grads, grad, saved):
        if place == "saved":
            saved[0][0] = 9  # was positive: the gradient of relu stays the same
        else:
            grad[1] = 9  # meets a negative input: the same
        return grads

    truth = truth_of(ops.relu, np.array([3.0, -2.0]))
    reference = testing.Provider("reference", ops.relu)
    reject(truth, reference, "backward of broken wrote", broken_backward(ops.relu, spoil))


def test_an_update_rule_that_forgets_the_step_fails():
    op = ops.adamw

    def first_step_always(lib, xp, *arrays, step, **params):
        return op.forward(np, *arrays, step=1, **params)

    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    arrays = [*randoms((6,), (6,), (6,)), np.full(6, 0.5)]
    provider = served_by(op, forward=first_step_always)
    testing.check_case(truth_of(op, *arrays, step=1, **options), provider)
    reject(truth_of(op, *arrays, step=2, **options), provider, "off by")


def case_with_slope(op):
    """A small case in which some gradient is not 0, and the place of that gradient."""
    for seed in range(40):
        arrays, params = op.sample(Small(seed))
        truth = truth_of(op, *arrays, **params)
        for place, grad in enumerate(truth.grads):
            if grad is not None and grad.size and np.abs(grad).max() > 0.1:
                return truth, place
    raise AssertionError(f"{op.name}: the sampler gives no case with a gradient")


def off_by(op, place, factor):
    """The op with its gradient at `place` times `factor`."""

    def backward(xp, grad, saved, **params):
        grads = list(op.backward(xp, grad, saved, **params))
        grads[place] = grads[place] * factor
        return grads

    wrong = copy.copy(op)
    wrong.backward = backward
    return wrong


@each_gradient
def test_a_gradient_that_is_a_thousandth_off_fails(op):
    truth, place = case_with_slope(op)
    testing.check_gradient(op, truth.arrays, truth.params)
    with pytest.raises(AssertionError, match=f"gradient {place} gives"):
        testing.check_gradient(off_by(op, place, 1.001), truth.arrays, truth.params)
    reference = testing.Provider("reference", op)
    testing.check_case(truth, reference, reference)
    wrong = testing.Provider("wrong", off_by(op, place, 1.001))
    reject(truth, reference, f"backward of wrong, result {place}: off by", wrong)


def test_a_missing_gradient_fails_the_gradient_check():
    wrong = copy.copy(ops.add)
    wrong.backward = lambda xp, grad, saved: (grad, None)
    with pytest.raises(AssertionError, match="gradient 1 is missing or of the wrong shape"):
        testing.check_gradient(wrong, randoms((2,), (2,)), {})
    wrong.constant = (1,)
    testing.check_gradient(wrong, randoms((2,), (2,)), {})


@pytest.mark.parametrize("op", registry.values(), ids=lambda op: op.name)
def test_the_reference_stays_within_the_budget(op):
    class Modest(testing.Draw):
        sizes = (0, 1, 2, 3, 17, 33)

    shares = []
    for seed in range(8):
        arrays, params = op.sample(Modest(seed))
        reference = testing.Provider("reference", op)
        shares.append(testing.check_case(truth_of(op, *arrays, **params), reference, reference))
    assert 0 <= max(shares) < 1


def test_some_operations_use_some_of_the_budget():
    reference = testing.Provider("reference", ops.layer_norm)
    truths = [
        testing.reference(ops.layer_norm, *testing.sampled(ops.layer_norm, n)) for n in (0, 1)
    ]
    shares = [testing.check_case(truth, reference, reference) for truth in truths]
    assert 0.01 < max(shares) < 0.9


@pytest.mark.parametrize(
    "got, right, expected",
    [
        ([1.0, 2.5], [1.0, 2.0], 0.5),
        ([math.inf, 1.0], [math.inf, 1.0], 0.0),
        ([-math.inf, 1.0], [math.inf, 1.0], math.inf),
        ([math.nan, 1.0], [math.nan, 1.0], 0.0),
        ([0.0, 1.0], [math.nan, 1.0], math.inf),
        ([math.nan, 1.0], [0.0, 1.0], math.inf),
        ([], [], 0.0),
    ],
)
def test_the_distance_of_two_arrays(got, right, expected):
    assert testing.distance(np.array(got), np.array(right)) == expected


@pytest.mark.parametrize(
    "shapes, result, allowed",
    [
        ([(2, 3)], (2, 3), 8),
        ([(4, 1024)], (4,), 16),  # a row of 1024
        ([(1024, 4)], (4,), 16),  # a column of 1024
        ([(64, 64)], (), 32),  # all 4096 elements
        ([()], (), 8),
    ],
)
def test_the_budget_grows_with_the_root_of_what_is_summed(shapes, result, allowed):
    assert testing.budget([np.ones(s) for s in shapes], [np.ones(result)]) == allowed

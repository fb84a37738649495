"""Every operation of the registry, by every provider, against the float64 truth. No op is named."""

import inspect
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layouts import LAYOUTS, OneLength
from minillm import kernels, testing
from minillm.ops import registry
from minillm.tensor import Tensor

OPS = list(registry.values())
ISAS = [] if kernels.cpu is None else kernels.cpu.runtime.available_isas()
CLAIMED = [op for op in OPS if any(op.kernels(kernels.cpu))]

each_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
each_gradient = pytest.mark.parametrize(
    "op", [op for op in OPS if op.backward is not None], ids=lambda op: op.name
)
needs_extension = pytest.mark.skipif(
    kernels.cpu is None, reason="the C++ extension is not installed: there are no kernels to test"
)


def few(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


class HypothesisDraw(testing.Draw):
    """Choices and lengths that hypothesis finds and shrinks; at most two lengths are large."""

    def __init__(self, data):
        super().__init__(data.draw(st.integers(0, 2**32 - 1)))
        self.data, self.large = data, 2

    def choice(self, options):
        return options[self.data.draw(st.integers(0, len(options) - 1))]

    def size(self, name, low=0):
        lengths = (1, 2, 3, 0, 5, 7, 13) + ((31, 63, 64, 65, 97, 131) if self.large else ())
        length = self.choice([length for length in lengths if length >= low])
        self.large -= length > 13
        return length


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_keep_the_values(layout):
    for shape in ((), (0, 3), (5,), (2, 3, 4)):
        array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
        assert np.array_equal(LAYOUTS[layout](array), array)
        assert isinstance(LAYOUTS[layout](array), np.ndarray)
        assert LAYOUTS[layout](array).dtype == array.dtype


@each_op
@given(data=st.data())
@few(30)
def test_providers_agree_with_the_truth_and_serve_each_others_gradients(op, data):
    arrays, params = op.sample(HypothesisDraw(data))
    arrays = testing.cast(arrays, "float32")
    lay = LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)))]
    truth = testing.reference(op, arrays, params, data.draw(st.integers(0, 999)))
    for forward in testing.providers(op):
        for backward in testing.providers(op):
            testing.check_case(truth, forward, backward, lay)


def cases_of_each_length(op):
    """For every axis the sampler asks for: lengths around 0, 1 and the widths of registers."""
    probe = [OneLength(seed) for seed in range(12)]
    for draw in probe:
        op.sample(draw)
    for name in sorted(set().union(*(draw.asked for draw in probe))):
        for seed, length in enumerate((0, 1, 3, 63, 65, 127)):
            arrays, params = op.sample(OneLength(seed, name, length))
            yield testing.reference(op, testing.cast(arrays, "float32"), params, seed)


@each_op
def test_every_axis_may_have_any_length(op):
    layouts = itertools.cycle(LAYOUTS.values())
    for truth in cases_of_each_length(op):
        reference, *libraries = testing.providers(op)
        testing.check_case(truth, reference, reference, next(layouts))
        for isa in ISAS if libraries else ():
            with instruction_set(isa):
                testing.check_case(truth, libraries[0], libraries[0], next(layouts))


class instruction_set:
    def __init__(self, name):
        self.name = name

    def __enter__(self):
        self.before = kernels.cpu.runtime.isa()
        kernels.cpu.runtime.set_isa(self.name)

    def __exit__(self, *error):
        kernels.cpu.runtime.set_isa(self.before)


@each_gradient
@given(data=st.data())
@few(15)
def test_the_gradient_is_the_slope(op, data):
    arrays, params = op.sample(HypothesisDraw(data))
    testing.check_gradient(op, arrays, params, data.draw(st.integers(0, 999)))


class Small(testing.Draw):
    sizes = (0, 1, 2, 3, 5, 17)


def cases(op, count=8):
    drawn = [op.sample(Small(seed)) for seed in range(count)]
    return [(testing.cast(arrays, "float32"), params) for arrays, params in drawn]


@each_op
def test_float64_gives_float64_by_whatever_serves_it(op):
    for arrays, params in cases(op):
        exact = testing.cast(arrays, "float64")
        mutated = op.mutated(len(arrays))
        kept = [np.copy(a) if place in mutated else a for place, a in enumerate(exact)]
        out, saved = op.compute(*exact, **params)
        right, right_saved = op.forward(np, *kept, **params)
        takes_floats = any(np.asarray(a).dtype.kind == "f" for a in exact if a is not None)
        assert out.dtype == (np.float64 if takes_floats else np.float32)
        assert np.array_equal(out, right, equal_nan=True)
        if op.backward is None:
            continue
        upstream = np.ones(np.shape(out))
        grads = op.run_backward(upstream, saved, params)
        for grad, exact_grad in zip(grads, op.backward(np, upstream, right_saved, **params)):
            assert (grad is None) == (exact_grad is None)
            if grad is not None:
                assert grad.dtype == np.float64
                assert np.array_equal(grad, exact_grad, equal_nan=True)


def leaves(op, arrays):
    return [
        Tensor(a, requires_grad=testing.is_float(a) and place not in op.constant)
        if isinstance(a, np.ndarray)
        else a
        for place, a in enumerate(arrays)
    ]


@each_gradient
def test_float32_leaves_keep_shape_dtype_and_memory(op):
    for arrays, params in cases(op):
        inputs = leaves(op, arrays)
        out = op(*inputs, **params)
        assert out.dtype == np.float32
        assert not out.data.flags.writeable
        out.backward(np.ones(out.shape))
        for given_, leaf in zip(arrays, inputs):
            if isinstance(leaf, Tensor):
                assert leaf.data is not out.data
                assert leaf.data.flags.writeable
                assert np.array_equal(leaf.data, given_)
                if leaf.requires_grad:
                    assert leaf.grad.shape == leaf.shape
                    assert leaf.grad.dtype == np.float32
                    assert leaf.grad.data.flags.writeable


@each_op
def test_no_output_is_an_input_object(op):
    for arrays, params in cases(op):
        out, _ = op.compute(*arrays, **params)
        mutated = op.mutated(len(arrays))
        assert not any(out is a for place, a in enumerate(arrays) if place not in mutated)
        if mutated:
            assert out is arrays[mutated[0]]


@each_gradient
def test_numpy_scalars_as_parameters_widen_nothing(op):
    for arrays, params in cases(op):
        scalars = {
            name: np.array(value)[()] if type(value) in (int, float) and value < 2**63 else value
            for name, value in params.items()
        }
        plain, dressed = leaves(op, arrays), leaves(op, arrays)
        out, same = op(*plain, **params), op(*dressed, **scalars)
        assert same.dtype == np.float32
        assert np.array_equal(out.data, same.data, equal_nan=True)
        for result in (out, same):
            result.backward(np.ones(out.shape))
        for a, b in zip(plain, dressed):
            if isinstance(a, Tensor) and a.requires_grad:
                assert np.array_equal(a.grad.data, b.grad.data, equal_nan=True)


@each_gradient
def test_a_broadcast_upstream_gradient_is_like_any_other(op):
    """The gradient of sum() has stride 0 everywhere."""

    def lay(array):
        equal = array.size and (array == array.flat[0]).all()
        return np.broadcast_to(array.flat[0], array.shape) if equal else array

    for seed in range(6):
        arrays, params = op.sample(OneLength(seed, "C", 17))
        arrays = testing.cast(arrays, "float32")
        shape = np.shape(op.forward(np, *testing.cast(arrays, "float64"), **params)[0])
        truth = testing.reference(op, arrays, params, upstream=np.full(shape, 0.7))
        for provider in testing.providers(op):
            testing.check_case(truth, provider, provider, lay)


@each_op
def test_forward_and_backward_take_the_same_parameters(op):
    names, keywords = parameters(op.forward)
    assert op.doc and op.doc.strip()
    for function in (op.backward, op._kernel_forward, op._kernel_backward, op._check):
        if function is None:
            continue
        others, their_keywords = parameters(function)
        if their_keywords is not ...:
            assert their_keywords == keywords, function.__name__
        if function is op._kernel_forward:
            assert others == ["lib", *names]
        if function is op._check:
            assert others == names[1:]


def parameters(function):
    """Positional names and keyword-only defaults; ... for a function that takes any keyword."""
    positional, keywords = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            return positional, ...
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords[name] = parameter.default
        else:
            positional.append(name)
    return positional, keywords


@needs_extension
@pytest.mark.parametrize("op", CLAIMED, ids=lambda op: op.name)
def test_what_a_library_claims_it_serves(op):
    provider = testing.providers(op)[-1]
    forward = backward = 0
    for arrays, params in cases(op):
        outs, saved = testing.outputs(op, provider, arrays, params)
        forward, provider.served = forward + provider.served, 0
        if op.backward is not None:
            provider.backward(np.ones(outs[0].shape, np.float32), saved, params)
        backward, provider.served = backward + provider.served, 0
    shims = op.kernels(kernels.cpu)
    assert (forward > 0, backward > 0) == (shims[0] is not None, shims[1] is not None)


@needs_extension
def test_every_exported_function_belongs_to_an_op():
    public = {name for name in dir(kernels.cpu) if not name.startswith("_")} - {"runtime"}
    assert public
    for name in public:
        op, direction = name.rsplit("_", 1)
        assert op in registry and direction in ("forward", "backward"), name
        assert registry[op].kernels(kernels.cpu)[direction == "backward"] is not None, name

"""Tensor: gradients of every shape, float32 that stays float32, errors."""

import numpy as np
import pytest

from minillm import Tensor, ops
from minillm.tensor import of

F = np.float32


def leaf(values, dtype=F):
    return Tensor(np.array(values, dtype), requires_grad=True)


def slope(function, leaves, place):
    """Gradient of the scalar function(*leaves) at leaves[place], by central differences."""
    array = leaves[place].data
    grad = np.zeros(array.shape)
    for index in np.ndindex(*array.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = [of(other.data.copy()) for other in leaves]
            moved[place].data[index] += step
            ends.append(function(*moved).item())
        grad[index] = (ends[0] - ends[1]) / 2e-6
    return grad


def check_slopes(function, *leaves):
    function(*leaves).backward()
    for place, one in enumerate(leaves):
        assert one.grad.shape == one.shape
        assert one.grad.dtype == one.dtype
        np.testing.assert_allclose(one.grad.data, slope(function, leaves, place), atol=1e-6)


def randoms(*shapes):
    rng = np.random.default_rng(3)
    return [leaf(rng.uniform(0.5, 2, shape), np.float64) for shape in shapes]


class TestGradients:
    @pytest.mark.parametrize("operator", ["__add__", "__sub__", "__mul__", "__truediv__"])
    @pytest.mark.parametrize(
        "shapes",
        [((4, 1), (1, 4)), ((), (5, 4)), ((1,), (5, 4)), ((2, 1, 3), (3,)), ((2, 3), (2, 3)),
         ((1, 1), (1, 1)), ((), ()), ((0, 3), (1, 3)), ((3,), ())],
    )  # fmt: skip
    def test_broadcasting_sums_back_to_the_shape_of_the_leaf(self, operator, shapes):
        check_slopes(lambda a, b: (getattr(a, operator)(b) * 1.5).sum(), *randoms(*shapes))

    def test_a_scalar_met_by_20_elements(self):
        a = leaf(3.0)
        (a * np.ones((5, 4), F)).sum().backward()
        assert a.grad.item() == 20
        assert a.grad.shape == ()

    def test_a_leaf_broadcast_against_itself(self):
        check_slopes(lambda a: (a * a.reshape(1, 3)).sum(), *randoms((3, 1)))

    @pytest.mark.parametrize(
        "a, b, out",
        [((3,), (3, 2), (2,)), ((2, 3), (3,), (2,)), ((3,), (3,), ()),
         ((4, 3), (1, 3, 3), (1, 4, 3)), ((5, 1, 2, 3), (4, 3, 2), (5, 4, 2, 2)),
         ((3,), (4, 3, 2), (4, 2)), ((4, 2, 3), (3,), (4, 2))],
    )  # fmt: skip
    def test_matmul_of_every_rank(self, a, b, out):
        assert (Tensor(np.ones(a, F)) @ Tensor(np.ones(b, F))).shape == out
        check_slopes(lambda x, y: ((x @ y) * (x @ y)).sum(), *randoms(a, b))

    def test_a_leaf_used_twice_counts_twice(self):
        a = leaf(1.0)
        b = a + a
        (b + b).backward()
        assert a.grad.item() == 4
        x = leaf(3.0)
        (x * x + x).backward()
        assert x.grad.item() == 7

    def test_a_node_waits_for_all_its_consumers(self):
        """Consumers at different depths: the shared node must run once, last."""
        check_slopes(
            lambda x: ((x * x).exp() * (x * x) + (x * x).sum() * x.sqrt().log()).sum(),
            *randoms((3,)),
        )

        def diamond(x):
            shared = x * x
            deep = (shared.exp() + 1).log() * shared
            return (deep * shared + shared).sum()

        check_slopes(diamond, *randoms((3,)))

    @pytest.mark.parametrize(
        "index",
        [0, -1, slice(1, None), (slice(None), 1), (..., None, slice(None, None, -1)), [2, 0, 2],
         (0, (1, 1)), ((2, 2), (1, 1)), range(2), np.array([[0, 0], [2, 2]]), ([0, 0], 1),
         np.array([True, False, True]), (np.int64(1), np.int64(0)), None, True,
         Tensor(np.array([1, 1, 0]))],
        ids=str,
    )  # fmt: skip
    def test_every_repetition_of_an_index_counts(self, index):
        rows, columns = np.meshgrid(range(3), range(2), indexing="ij")
        plain = index.data if isinstance(index, Tensor) else index
        x = leaf(np.arange(6.0).reshape(3, 2))
        y = x[index]
        assert np.array_equal(y.data, x.data[plain])
        y.sum().backward()
        counts = np.zeros((3, 2))
        np.add.at(counts, (rows[plain].ravel(), columns[plain].ravel()), 1)
        assert np.array_equal(x.grad.data, counts)

    def test_everything_together(self):
        def function(a, b):
            c = ops.concatenate(a.transpose(0, 1), b[None, 1:], axis=0)
            c = ops.where(np.arange(3) > 0, c.exp(), -c) / (1 + c.mean(axis=-1, keepdims=True))
            c = c.T.permute(1, 0).reshape(-1)[2:] ** 2 - 2 / c.max()
            return (1 - c.tanh().masked_fill(np.arange(c.shape[0]) == 3, 0.5)).sum()

        check_slopes(function, *randoms((3, 2), (4,)))

    def test_operators_on_either_side(self):
        x = leaf([1, 2, 4])
        row, column = np.array([[1, 0, 2]], F), np.ones((3, 1), F)
        for got, right in (
            (3 - x, [2, 1, -1]), (x - 3, [-2, -1, 1]), (4 / x, [4, 2, 1]), (x / 4, [0.25, 0.5, 1]),
            (3 + x, [4, 5, 7]), (3 * x, [3, 6, 12]), (-x, [-1, -2, -4]), (x**2, [1, 4, 16]),
            (np.ones(3, F) - x, [0, -1, -3]), (row @ x, [9]), (x @ column, [7]),
        ):  # fmt: skip
            assert isinstance(got, Tensor)
            assert got.data.tolist() == right

    def test_a_float32_tape_that_passes_through_float64(self):
        x, w = leaf([[1, 2, 3]]), leaf([[1, 0, 1], [0, 1, 0]])
        y = ops.linear(x, w) * np.array([2.0, 3.0])  # float64 on purpose
        assert y.dtype == np.float64
        y.sum().backward()
        assert x.grad.dtype == w.grad.dtype == F
        assert x.grad.data.tolist() == [[2, 3, 2]]

    def test_backward_starts_from_the_gradient_it_is_given(self):
        x = leaf([1, 2, 3])
        (x * 2).backward([1, 10, 100])
        assert x.grad.data.tolist() == [2, 20, 200]
        x.backward(np.array([1.0, 1.0, 1.0]))
        assert x.grad.data.tolist() == [3, 21, 201]


class TestPrecision:
    @pytest.mark.parametrize(
        "function",
        [
            lambda x: np.float64(0.5) * x,
            lambda x: x * np.float64(0.5),
            lambda x: x / np.sqrt(64),
            lambda x: np.sqrt(64) / x,
            lambda x: np.int64(3) - x,
            lambda x: x ** np.float64(2),
            lambda x: x**2,
            lambda x: x / np.array([1, 2, 4]),
            lambda x: np.array([1, 2, 4]) * x,
            lambda x: x + Tensor([1, 2, 4]),
            lambda x: Tensor([1, 2, 4]) - x,
            lambda x: x * (x > 2),
            lambda x: ops.where(x.data > 2, x, np.array([1, 2, 3])),
            lambda x: ops.where(x.data > 2, x, 0.0),
            lambda x: ops.multiply(x, np.float64(2)),
            lambda x: ops.clip(x, low=np.float64(2)),
            lambda x: x.masked_fill(x.data > 2, np.float64(7)),
            lambda x: x.mean(),
            lambda x: x.max(axis=0),
            lambda x: ops.softmax(x),
            lambda x: ops.layer_norm(x, eps=np.float64(1e-5)),
            lambda x: ops.dropout(x, p=np.float64(0.5), seed=np.int64(3)),
            lambda x: ops.norm(x),
        ],
    )
    def test_float32_stays_float32(self, function):
        x = leaf([1, 2, 4])
        y = function(x)
        assert y.dtype == F
        y.sum().backward()
        assert x.grad.dtype == F

    def test_what_a_tensor_is_made_of(self):
        assert Tensor(1.5).dtype == Tensor([1.0, 2]).dtype == F
        assert Tensor([1, 2]).dtype == np.int64
        assert Tensor([True]).dtype == bool
        assert Tensor(np.ones(2)).dtype == np.float64
        assert Tensor([1, 2], dtype=F).dtype == F


class TestErrors:
    def test_backward_of_many_elements_needs_a_gradient(self):
        with pytest.raises(RuntimeError, match=r"shape \(2, 3\) has 6 elements, a scalar"):
            (leaf(np.ones((2, 3))) * 2).backward()

    def test_backward_from_a_gradient_of_another_shape(self):
        with pytest.raises(ValueError, match=r"shape \(3,\) given, \(2,\) needed"):
            (leaf([1, 2]) * 2).backward(np.ones(3, F))

    def test_backward_of_what_needs_no_gradient(self):
        with pytest.raises(RuntimeError, match="does not require a gradient"):
            Tensor([1.0]).backward()

    @pytest.mark.parametrize("data", ["text", [None], np.ones(2, np.float16), [1j], {}])
    def test_data_that_cannot_be_computed_with(self, data):
        with pytest.raises(TypeError, match=r"Tensor: dtype .* cannot be computed with"):
            Tensor(data)

    @pytest.mark.parametrize("data", [[1, 2], [True]])
    def test_whole_numbers_take_no_gradient(self, data):
        with pytest.raises(TypeError, match="only float32 and float64 can require a gradient"):
            Tensor(data, requires_grad=True)

    def test_only_leaves_can_stop_requiring_a_gradient(self):
        with pytest.raises(RuntimeError, match="only leaves can be changed; use detach"):
            (leaf([1]) * 2).requires_grad_(False)

    def test_item_of_several_elements(self):
        with pytest.raises(ValueError, match=r"shape \(2,\) has 2"):
            leaf([1, 2]).item()

    def test_copy_of_another_shape(self):
        with pytest.raises(ValueError, match=r"copy_: shape \(1,\) given, \(2,\) is needed"):
            Tensor([1.0, 2.0]).copy_([1.0])

    def test_a_scalar_has_no_length_and_no_elements(self):
        for use in (len, list, lambda t: [*t]):
            with pytest.raises(TypeError, match=r"a Tensor of shape \(\) has no length"):
                use(leaf(1.0))
        assert [row.data.tolist() for row in leaf([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]

    def test_operands_that_are_no_numbers(self):
        with pytest.raises(TypeError, match="unsupported operand"):
            leaf([1]) + "a"
        with pytest.raises(TypeError, match="the exponent is a Tensor, a number is needed"):
            leaf([1]) ** leaf([2])

    @pytest.mark.parametrize("a, b, numbers", [
        ((2, 3), (4, 2), "inner lengths 3 and 4"), ((), (2,), r"shapes \(\) and \(2,\)"),
        ((2, 1, 3), (3, 3, 1), "leading axes"),
    ])  # fmt: skip
    def test_matrices_that_do_not_fit(self, a, b, numbers):
        with pytest.raises(ValueError, match=f"matmul: .*{numbers}"):
            Tensor(np.ones(a, F)) @ Tensor(np.ones(b, F))


def test_tensors_are_compared_by_value_and_kept_by_identity():
    a, b = leaf([1, 2]), leaf([1, 3])
    assert (a == b).data.tolist() == [True, False]
    assert (a < b).data.tolist() == [False, True]
    assert not (a == b).requires_grad
    assert a in {a} and b not in {a}
    assert a != None  # noqa: E711

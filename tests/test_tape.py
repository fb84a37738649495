"""The tape: changes in place, lifetimes, gradient mode, recomputation."""

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import stand_in_cupy
from minillm import Tensor, checkpoint, enable_grad, kernels, manual_seed, nn, no_grad, ops
from minillm.arrays import beside
from minillm.op import Op
from minillm.optim import SGD
from minillm.tensor import Node, of, result

F = np.float32


def leaf(values):
    return Tensor(np.array(values, F), requires_grad=True)


class TestChangesInPlace:
    def test_the_result_of_an_operation_cannot_be_changed(self):
        x = leaf([1, 2, 3, 4])
        y = x * x
        v = y[:2]
        for array in (y.data, v.data, x[1:].data, y.detach().data):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 100
        for made in (y, v, y.detach(), Tensor([1.0]) * 2, Tensor([1.0, 2.0])[:1]):
            with pytest.raises(RuntimeError, match="result of an operation is read-only"):
                made[0] = 100
        v.sum().backward()
        assert x.grad.data.tolist() == [2, 4, 0, 0]

    def test_assigning_what_needs_a_gradient_is_refused(self):
        b = Tensor(np.zeros(4, F))
        with pytest.raises(RuntimeError, match="is not recorded"):
            b[:2] = leaf([1, 2])
        with no_grad():
            b[:2] = leaf([1, 2])
        assert b.data.tolist() == [1, 2, 0, 0]

    def test_a_leaf_that_needs_a_gradient_is_changed_only_off_the_tape(self):
        x = leaf([1, 2])
        for change in (lambda: x.__setitem__(0, 5), lambda: x.copy_([5, 6])):
            with pytest.raises(RuntimeError, match="only under no_grad"):
                change()
        with no_grad():
            x[0] = 5
        assert x.data.tolist() == [5, 2]

    @pytest.mark.parametrize(
        "path",
        [
            lambda x: x,
            lambda x: x[:2],
            lambda x: x.reshape(2, 2)[0],
            lambda x: x.T.permute(0)[1:3],
            lambda x: x.detach()[2:],
            lambda x: ops.broadcast_to(x, shape=(3, 4)),
        ],
    )
    @pytest.mark.parametrize("requires_grad", [False, True])
    def test_a_value_that_backward_needs_may_not_change_meanwhile(self, path, requires_grad):
        """However the operation came to see the memory: directly or through views."""
        x, w = Tensor(np.ones(4, F), requires_grad=requires_grad), leaf(2.0)
        loss = (path(x) * w).sum()
        with no_grad():
            x[...] = 100
        with pytest.raises(RuntimeError, match=r"multiply .* was modified after it was used"):
            loss.backward()

    def test_a_step_of_the_optimiser_is_a_change(self):
        x, w = leaf([[1, 2]]), nn.Parameter(np.ones((2, 2), F))
        optimizer = SGD([w], lr=0.1)
        w.grad = Tensor(np.ones((2, 2), F))
        for loss in ((x @ w).sum(), (x @ w.T).sum(), ops.linear(x, w).sum()):
            optimizer.step()
            with pytest.raises(RuntimeError, match="was modified"):
                loss.backward()

    def test_a_change_that_backward_does_not_need_is_allowed(self):
        x, y = leaf([1, 2]), leaf([3, 4])
        loss = (x + y).sum()
        with no_grad():
            x[0] = 100
        loss.backward()
        assert x.grad.data.tolist() == [1, 1]

    def test_a_tensor_does_not_share_memory_with_what_it_was_made_from(self):
        source = np.ones(2, F)
        x = Tensor(source)
        source[0] = 9
        y = Tensor(x)
        x[1] = 8
        assert (x.data.tolist(), y.data.tolist()) == ([1, 8], [1, 1])

    def test_gradients_are_nobody_elses_memory(self):
        x, y, upstream = leaf([1, 2]), leaf([3, 4]), np.ones(2, F)
        (x + y).backward(upstream)
        x.grad.data[0] = 50
        assert y.grad.data.tolist() == upstream.tolist() == [1, 1]
        z = leaf([1, 2])
        (z + 1).backward(upstream)
        z.grad.data[0] = 50
        assert upstream.tolist() == [1, 1]

    def test_an_operation_may_give_one_gradient_to_both_of_its_inputs(self, monkeypatch):
        def twins_forward(xp, a, b):
            return a + b, ()

        def twins_backward(xp, grad, saved):
            return (grad * 2,) * 2

        twins = Op(twins_forward, twins_backward, None)
        monkeypatch.delitem(ops.registry, "twins")
        x, y = leaf([1, 2]), leaf([3, 4])
        twins(x, y).sum().backward()
        x.grad.data[0] = 50
        assert y.grad.data.tolist() == [2, 2]

    def test_gradients_accumulate_in_place(self):
        x = leaf([1, 2])
        (x * 3).sum().backward()
        kept = x.grad
        (x * 4).sum().backward()
        assert x.grad is kept
        assert kept.data.tolist() == [7, 7]

    def test_augmented_assignment_makes_a_new_tensor(self):
        x = leaf([1, 2])
        y = x
        y += 1
        assert (x.data.tolist(), y.data.tolist()) == ([1, 2], [2, 3])


def random_leaf(*shape, seed=0):
    return leaf(np.random.default_rng(seed).standard_normal(shape))


def gradients(function, *leaves_, upstream=None):
    """The gradients of function(*leaves_), by adding each part apart, and by whatever serves."""
    found = []
    for provider in ("reference", "auto"):
        for one in leaves_:
            one.grad = None
        with kernels.use(provider):
            for out in function(*leaves_):
                out.backward(np.ones(out.shape, F) if upstream is None else upstream(*leaves_))
        found.append([one.grad.data for one in leaves_])
    return zip(*found)


class TestTotals:
    """Kernels add to the gradients that are there, where nobody else sees these arrays."""

    def test_a_second_pass_adds_in_place(self):
        x, w, b = random_leaf(5, 3), random_leaf(4, 3, seed=1), random_leaf(4, seed=2)
        ops.linear(x, w, b).sum().backward()
        first = [(one.grad, one.grad.data, one.grad.data.copy()) for one in (x, w, b)]
        ops.linear(x, w, b).sum().backward()
        for one, (grad, array, before) in zip((x, w, b), first):
            assert one.grad is grad and grad.data is array
            assert grad._version == [1]
            np.testing.assert_allclose(array, 2 * before, rtol=1e-6)

    def test_branches_meet_in_one_array(self):
        """The stream of a residual network: each branch adds to what the others left."""

        def network(x, w, scale):
            for _ in range(3):
                x = x + ops.linear(ops.layer_norm(x, scale), w)
                x = ops.linear(ops.rms_norm(x, scale), w) + x
            return [x]

        leaves_ = random_leaf(5, 4), random_leaf(4, 4, seed=1), random_leaf(4, seed=2)
        for right, got in gradients(network, *leaves_):
            np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)

    def test_a_tied_weight(self):
        ids = np.array([1, 0, 1, 3])

        def model(weight):
            return [ops.linear_cross_entropy(ops.embedding(weight, ids), weight, ids)]

        for right, got in gradients(model, random_leaf(6, 4)):
            np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        "function",
        [
            lambda w: [ops.linear(w, w)],
            lambda w: [ops.linear(w, w), ops.linear(ops.linear(w, w), w, w[0])],
            lambda w: [ops.linear(w.exp(), w) + w.exp(), w + 1.0],
        ],
    )
    def test_one_leaf_in_several_places(self, function):
        for right, got in gradients(function, random_leaf(4, 4)):
            np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("of_grad", [lambda w: w.grad, lambda w: w.grad.data[::-1]])
    def test_the_gradient_itself_as_an_input(self, of_grad):
        """What the product reads may not change under it."""

        def twice(w):
            yield w * 3.0
            yield ops.linear(of_grad(w), w)

        for right, got in gradients(twice, random_leaf(100, 100)):
            np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-4)

    def test_the_gradient_itself_as_the_upstream_gradient(self):
        def upstream(w):
            return np.ones((100, 100), F) if w.grad is None else w.grad

        def twice(w):
            yield w * 3.0
            yield ops.linear(np.eye(100, dtype=F), w)
            yield ops.linear(np.ones((100, 100), F), w)

        for right, got in gradients(twice, random_leaf(100, 100), upstream=upstream):
            np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-4)

    def test_a_total_is_offered_once_and_only_where_there_is_one(self):
        class Pair:
            name, accumulates = "pair", (0, 1)

            def run_backward(self, grad, saved, params, totals=()):
                seen.append(list(totals))
                return [None, None]

        def pair(*inputs):
            return result(np.ones(4, F), Node(Pair(), inputs, (), {}), inputs)

        seen, w, v, without = [], random_leaf(4), random_leaf(4), random_leaf(4)
        (w + v).sum().backward()
        for inputs in ((w, w), (w, v), (without, v), (w,)):
            pair(*inputs).sum().backward()
        assert [len(totals) for totals in seen] == [2, 2, 2, 1]
        assert seen[0] == [None, None]
        assert seen[1][0] is w.grad.data and seen[1][1] is v.grad.data
        assert seen[2][0] is None and seen[2][1] is v.grad.data
        assert seen[3][0] is w.grad.data

    def test_a_total_is_offered_only_to_what_computes_where_it_lies(self):
        class Each:
            name, accumulates = "each", (0,)

            def run_backward(self, grad, saved, params, totals=()):
                seen.append(totals[0])
                return [None]

        def each(leaf, kept=()):
            out = beside(np.ones(4, F), leaf.data)
            result(out, Node(Each(), (leaf,), kept, {}), (leaf,)).backward(np.ones(4, F))

        seen = []
        with stand_in_cupy.installed():
            here, there = random_leaf(4), random_leaf(4).to("cuda")
            for leaf in (here, there):
                (leaf * 2.0).sum().backward()
            each(there)
            each(there, (there.grad.data[1:],))  # what a total shows is needed as it was
            each(there, (there.grad.data.copy(),))
            there.grad.data = there.grad.data.reshape(2, 2).T.reshape(4)
            each(there)
            there.grad = here.grad
            each(there)
            there.grad = Tensor(np.ones((4, 4), F)).to("cuda")
            there.grad.data = there.grad.data[:, 0]  # no rows of a matrix
            each(there)
        first = seen[0]
        assert first is not None and seen[1] is None and seen[2] is first
        assert seen[3] is not first and seen[3] is not None
        assert seen[4:] == [None, None]

    def test_a_gradient_that_passes_through_and_a_view_of_it(self):
        class Fork:
            name, accumulates = "fork", ()

            def run_backward(self, grad, saved, params, totals=()):
                return [grad, grad[:, :2]]

        x, y = random_leaf(3, 4), random_leaf(3, 2)
        left, right = x * 1.0, y * 1.0
        branch = left * 5.0
        out = result(np.ones((3, 4), F), Node(Fork(), (left, right), (), {}), (left, right))
        (out * 1.0 + branch).sum().backward()
        assert (x.grad.data == 6).all()
        assert (y.grad.data == 1).all()

    def test_a_gradient_that_cannot_be_written_is_left_alone(self):
        w = random_leaf(4, 4)
        frozen = np.zeros((4, 4), F)
        frozen.setflags(write=False)
        w.grad = of(frozen)
        with pytest.raises(ValueError, match="read-only"):
            ops.linear(np.eye(4, dtype=F), w).sum().backward()
        assert not frozen.any()


@pytest.fixture
def no_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class TestLifetimes:
    def test_the_tape_is_freed_by_backward(self):
        x = leaf([1, 2])
        y = (x * x).sum()
        y.backward()
        with pytest.raises(RuntimeError, match="tape was freed by an earlier backward"):
            y.backward()
        assert x.grad.data.tolist() == [2, 4]

    def test_unless_it_is_to_be_kept(self):
        x = leaf([1, 2])
        y = (x * x).sum()
        for expected in ([2, 4], [4, 8]):
            y.backward(retain_graph=True)
            assert x.grad.data.tolist() == expected
        y.backward()
        assert x.grad.data.tolist() == [6, 12]

    def test_two_losses_over_one_trunk_need_the_tape_kept(self):
        x = leaf([1, 2])
        trunk = x.exp()
        first, second = trunk.sum(), (trunk * 2).sum()
        first.backward()
        with pytest.raises(RuntimeError, match="freed"):
            second.backward()

    def test_saved_arrays_die_with_the_tape(self, no_gc):
        x = leaf([1, 2])
        y = x.exp()
        array = weakref.ref(y.data)
        loss = y.sum()
        del y
        assert array() is not None
        loss.backward()
        assert array() is None

    @pytest.mark.parametrize("ran", [False, True])
    def test_nothing_waits_for_the_cycle_collector(self, no_gc, ran):
        model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 2))
        hidden = model(Tensor(np.ones((5, 3), F)))
        loss = ops.cross_entropy(checkpoint(ops.softmax, hidden), np.zeros(5, int))
        refs = [weakref.ref(hidden), weakref.ref(hidden.data), weakref.ref(loss)]
        if ran:
            loss.backward()
        del hidden, loss
        assert [ref() for ref in refs] == [None] * 3

    def test_memory_stays_flat_over_a_run(self, no_gc):
        model = nn.Sequential(nn.Linear(30, 40), nn.GELU(), nn.Linear(40, 30))
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        x, total, sizes = Tensor(np.ones((20, 30), F)), 0.0, {}
        tracemalloc.start()
        try:
            for step in range(200):
                optimizer.zero_grad()
                loss = ops.norm(model(x))
                loss.backward()
                optimizer.step()
                total += loss.item()
                sizes[step // 10] = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert abs(sizes[19] - sizes[1]) < 0.05 * sizes[1]

    @pytest.mark.parametrize("run_backward", [True, False])
    def test_a_chain_of_50000_operations(self, run_backward):
        x = leaf([1.0])
        y = x
        for _ in range(50_000):
            y = y + 1
        if run_backward:
            y.backward()
            assert x.grad.item() == 1
        del y


class TestGradMode:
    def test_nothing_is_recorded_under_no_grad(self):
        x = leaf([1])
        with no_grad():
            y = x * 2
            with enable_grad():
                z = x * 2
            again = x * 2
        assert (y.requires_grad, z.requires_grad, again.requires_grad) == (False, True, False)
        assert (x * 2).requires_grad

    def test_an_exception_restores_the_mode(self):
        with pytest.raises(KeyError), no_grad():
            raise KeyError
        assert (leaf([1]) * 2).requires_grad

    def test_as_a_decorator(self):
        assert not no_grad()(lambda: leaf([1]) * 2)().requires_grad

    def test_threads_do_not_see_each_others_mode(self):
        inside, release, seen = threading.Event(), threading.Event(), []

        def silent():
            with no_grad():
                inside.set()
                release.wait(10)
                seen.append((leaf([1]) * 2).requires_grad)

        thread = threading.Thread(target=silent)
        thread.start()
        assert inside.wait(10)
        seen.append((leaf([1]) * 2).requires_grad)
        release.set()
        thread.join()
        assert seen == [True, False]


class TestCheckpoint:
    def block(self):
        return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 6))

    def gradients(self, run, block):
        manual_seed(4)
        block.zero_grad()
        x = leaf(np.linspace(-1, 1, 12).reshape(2, 6))
        y = run(block, x)
        after = nn.Dropout(0.5)(Tensor(np.ones(50, F))).data
        y.sum().backward()
        return [x.grad.data, y.data, after, *(p.grad.data for p in block.parameters())]

    @pytest.mark.parametrize("nested", [False, True])
    def test_it_gives_the_same_bits_as_without(self, nested):
        block = self.block()
        plain = self.gradients(lambda f, x: f(x), block)
        run = (lambda f, x: checkpoint(lambda t: checkpoint(f, t), x)) if nested else checkpoint
        for a, b in zip(plain, self.gradients(run, block)):
            assert np.array_equal(a, b)
        assert np.count_nonzero(plain[0]) > 0

    def test_backward_leaves_the_random_stream_where_it_was(self):
        block, x = self.block(), leaf(np.ones((2, 6)))
        manual_seed(1)
        draws = []
        for run_backward in (False, True):
            manual_seed(1)
            y = checkpoint(block, x)
            other = nn.Dropout(0.5)(Tensor(np.ones(50, F))).data
            if run_backward:
                y.sum().backward()
            draws.append((other, nn.Dropout(0.5)(Tensor(np.ones(50, F))).data))
        assert np.array_equal(draws[0], draws[1])

    def test_it_keeps_the_inputs_only(self, no_gc):
        inner = []

        def function(x):
            y = x.exp()
            inner.append(weakref.ref(y.data))
            return y * y

        x = leaf([1, 2])
        y = checkpoint(function, x)
        assert [ref() for ref in inner] == [None]
        y.sum().backward()
        assert len(inner) == 2
        np.testing.assert_allclose(x.grad.data, 2 * np.exp([2.0, 4.0]), rtol=1e-6)

    def test_several_inputs_and_one_without_a_gradient(self):
        x, y, z = leaf([2]), leaf([3]), Tensor(np.array([5], F))
        checkpoint(lambda a, b, c: a * b * c, x, y, z).backward()
        assert (x.grad.item(), y.grad.item(), z.grad) == (15, 10, None)

    def test_an_input_may_not_change_meanwhile(self):
        x = leaf([2])
        y = checkpoint(lambda t: t * t, x)
        with no_grad():
            x[0] = 7
        with pytest.raises(RuntimeError, match=r"checkpoint .* was modified"):
            y.backward()

    def test_backward_may_run_under_no_grad(self):
        x = leaf([2])
        y = checkpoint(lambda t: t * t, x)
        with no_grad():
            y.backward()
        assert x.grad.item() == 4

    def test_under_no_grad_it_is_just_a_call(self):
        calls = []
        with no_grad():
            y = checkpoint(lambda t: calls.append(1) or t * 2, leaf([2]))
        assert (y.data.tolist(), y.requires_grad, len(calls)) == ([4], False, 1)

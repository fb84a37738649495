"""Optimisers against hand-computed steps and a second algorithm; clipping; schedules."""

import math

import numpy as np
import pytest

from minillm import Tensor, nn, ops, optim
from minillm.optim import (
    SGD,
    AdamW,
    AdamW8bit,
    Muon,
    clip_grad_norm_,
    clip_scale,
    decay_groups,
    grad_norm,
    muon_groups,
    scheduled,
)
from minillm.tensor import of


def parameter(values, grad=None, dtype=np.float64):
    param = nn.Parameter(np.array(values, dtype))
    if grad is not None:
        param.grad = of(np.array(grad, dtype))
    return param


def run(optimizer, param, grads):
    for grad in grads:
        param.grad = of(np.array(grad, param.dtype))
        optimizer.step()
    return param.data


class TestAdamW:
    def test_three_steps_by_hand(self):
        w = parameter([1.0])
        result = run(AdamW([w], lr=0.1, weight_decay=0.0), w, [[1.0], [0.5], [0.25]])
        assert abs(result[0] - 0.7225118734) < 1e-10

    @pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 1e-5)])
    def test_the_published_algorithm(self, dtype, tolerance):
        """Loshchilov and Hutter, algorithm 2, number by number in Python floats."""
        start, beta1, beta2, lr, decay, eps = [0.7, -1.2, 3.0], 0.8, 0.95, 0.05, 0.3, 1e-6
        grads = np.random.default_rng(0).standard_normal((6, 3))
        expected = []
        for place, w in enumerate(start):
            m = v = 0.0
            for step, grad in enumerate(grads[:, place].tolist(), 1):
                m = beta1 * m + (1 - beta1) * grad
                v = beta2 * v + (1 - beta2) * grad**2
                update = m / (1 - beta1**step) / (math.sqrt(v / (1 - beta2**step)) + eps)
                w -= lr * (update + decay * w)
            expected.append(w)
        w = parameter(start, dtype=dtype)
        optimizer = AdamW([w], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
        np.testing.assert_allclose(run(optimizer, w, grads), expected, rtol=tolerance)

    def test_a_weight_in_another_layout_is_updated_too(self):
        rows, columns = parameter(np.ones((3, 4)), dtype="float32"), None
        columns = nn.Parameter(np.ones((4, 3), np.float32))
        columns.data = columns.data.T
        grad = np.arange(12.0).reshape(3, 4)
        for w in (rows, columns):
            run(AdamW([w], lr=0.1), w, [grad, grad])
        np.testing.assert_allclose(rows.data, columns.data, rtol=1e-6)
        assert (rows.data[0, 1:] < 1).all()


class TestSGD:
    def test_plain_momentum_and_decay_by_hand(self):
        for options, expected in (
            ({}, [0.7]),  # 1 - 0.1 * (1 + 2)
            ({"momentum": 0.5}, [0.65]),  # the second step is 2 + 0.5
            ({"weight_decay": 0.1}, [0.6811]),  # 0.89, then 0.89 - 0.1 * 2.089
        ):
            w = parameter([1.0])
            result = run(SGD([w], lr=0.1, **options), w, [[1.0], [2.0]])
            np.testing.assert_allclose(result, expected, rtol=1e-12)


class TestMuon:
    GRADS = (
        [[1, -2, 0.5, 3], [0, 1, -1, 2], [0.5, 0.5, 2, -1]],
        [[-1, 1, 2, 0], [3, -0.5, 1, 1], [1, 0, -2, 0.5]],
    )

    @pytest.mark.parametrize(
        "adjust_lr_fn, expected",
        [  # torch.optim.Muon of PyTorch 2.13, which iterates in bfloat16
            ("original", [[0.001, 0.101, 0.125, 0.137], [0.261, 0.418, 0.524, 0.525],
                          [0.687, 0.690, 0.891, 0.962]]),
            ("match_rms_adamw", [[0.000, 0.095, 0.158, 0.217], [0.321, 0.438, 0.534, 0.589],
                                 [0.708, 0.763, 0.898, 0.980]]),
        ],
    )  # fmt: skip
    def test_pytorchs_after_two_steps(self, adjust_lr_fn, expected):
        w = parameter(np.arange(12).reshape(3, 4) / 10)
        optimizer = Muon([w], lr=0.1, weight_decay=0.5, momentum=0.9, adjust_lr_fn=adjust_lr_fn)
        np.testing.assert_allclose(run(optimizer, w, self.GRADS), expected, atol=5e-3)

    def test_pytorchs_for_a_matrix_that_is_higher_than_wide(self):
        w = parameter(np.arange(12).reshape(3, 4).T / 10)
        optimizer = Muon(
            [w], lr=0.1, weight_decay=0.5, momentum=0.9, adjust_lr_fn="original"
        )  # fmt: skip
        result = run(optimizer, w, [np.transpose(grad) for grad in self.GRADS])
        expected = [[0.001, 0.246, 0.682], [0.103, 0.413, 0.671], [0.116, 0.521, 0.889],
                    [0.117, 0.509, 0.957]]  # fmt: skip
        np.testing.assert_allclose(result, expected, atol=5e-3)

    @pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
    @pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-11), ("float32", 1e-4)])
    def test_singular_values_go_through_the_quintic(self, shape, dtype, tolerance):
        grad = np.random.default_rng(0).standard_normal(shape)
        left, values, right = np.linalg.svd(grad, full_matrices=False)
        values /= np.linalg.norm(values)
        for _ in range(5):
            values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
        w = parameter(np.zeros(shape), grad, dtype)
        Muon([w], lr=1.0, nesterov=False, momentum=0.0, adjust_lr_fn="original").step()
        expected = -(left * values) @ right * max(1, shape[0] / shape[1]) ** 0.5
        np.testing.assert_allclose(w.data, expected, atol=tolerance)

    def test_a_gradient_of_zeros_moves_nothing(self):
        w = parameter(np.ones((2, 3)), np.zeros((2, 3)))
        Muon([w], lr=0.1, weight_decay=0.0).step()
        assert (w.data == 1).all()

    def test_linear_layers_but_the_head_are_its_own(self):
        model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 7))
        model.head = model.parts[3].weight
        muon, matrices, vectors = groups = muon_groups(model, 0.1)
        assert [group["use_muon"] for group in groups] == [True, False, False]
        assert [p.shape for p in muon["params"]] == [(3, 4)]
        assert sorted(p.shape for p in matrices["params"]) == [(7, 3), (7, 4)]
        assert [p.shape for p in vectors["params"]] == [(3,), (3,), (3,), (7,)]

    def test_the_rest_is_updated_by_adamw(self):
        w, other = parameter([1.0]), parameter([1.0])
        muon = Muon([{"params": [w], "use_muon": False}], lr=0.1, betas=(0.8, 0.9))
        grads = [[1.0], [0.5], [-2.0]]
        same = run(AdamW([other], lr=0.1, betas=(0.8, 0.9), weight_decay=0.1), other, grads)
        assert np.array_equal(run(muon, w, grads), same)

    def test_only_matrices_are_taken_and_only_known_adjustments(self):
        with pytest.raises(
            ValueError, match=r"muon: a parameter of shape \(2,\), 2 axes are needed"
        ):
            Muon([parameter(np.ones(2), np.ones(2))]).step()
        w = parameter(np.ones((2, 2)), np.ones((2, 2)))
        with pytest.raises(ValueError, match="'none', original or match_rms_adamw is needed"):
            Muon([w], adjust_lr_fn="none").step()


@pytest.mark.parametrize("kind", [AdamW, AdamW8bit, SGD, Muon])
def test_a_parameter_without_a_gradient_stays_with_its_state(kind):
    a, b = (parameter(np.ones((4, 8)), np.ones((4, 8)), np.float32) for _ in range(2))
    a.grad = None
    optimizer = kind([a, b], lr=0.5, weight_decay=0.1)
    optimizer.step()
    assert (a.data == 1).all() and (b.data != 1).all()
    assert not any(array.any() for array in optimizer.state[0].values())


@pytest.mark.parametrize("kind", [AdamW, SGD])
class TestEveryOptimiser:
    def test_groups_have_their_own_options(self, kind):
        a, b = parameter([1.0], [1.0]), parameter([1.0], [1.0])
        optimizer = kind([{"params": [a], "lr": 0.0}, {"params": [b]}], lr=0.5, weight_decay=0.0)
        optimizer.step()
        assert (a.data[0], abs(b.data[0] - 0.5) < 1e-6) == (1.0, True)
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
        assert a.data[0] < 1

    def test_a_parameter_without_a_gradient_stays(self, kind):
        a, b = parameter([1.0]), parameter([1.0], [1.0])
        kind([a, b], lr=0.5, weight_decay=0.1).step()
        assert (a.data[0], b.data[0] < 1) == (1.0, True)

    def test_zero_grad_forgets(self, kind):
        a = parameter([1.0], [1.0])
        kind([a]).zero_grad()
        assert a.grad is None

    def test_a_scale_is_a_scaled_gradient_and_leaves_it_alone(self, kind):
        a, b = parameter([1.0], [3.0]), parameter([1.0], [1.5])
        kind([a], lr=0.1).step(grad_scale=0.5)
        kind([b], lr=0.1).step()
        assert a.data[0] == b.data[0]
        assert a.grad.data[0] == 3.0

    def test_a_saved_state_resumes_to_the_same_bits(self, kind):
        grads = np.random.default_rng(0).standard_normal((6, 3))
        options = {"lr": 0.1} | ({"momentum": 0.9} if kind is SGD else {})
        whole = parameter(np.ones(3))
        run(kind([whole], **options), whole, grads)
        w = parameter(np.ones(3))
        first = kind([w], **options)
        run(first, w, grads[:3])
        second = kind([w], **options)
        second.load_state_dict(first.state_dict())
        run(second, w, grads[3:])
        assert np.array_equal(w.data, whole.data)
        assert not any(a is b for a, b in zip(first.state[0].values(), second.state[0].values()))

    def test_the_state_of_other_parameters_is_refused(self, kind):
        optimizer = kind([parameter([1.0]), parameter([1.0, 2.0])])
        with pytest.raises(ValueError, match="state of 1 parameters, 2 needed"):
            optimizer.load_state_dict(kind([parameter([1.0])]).state_dict())
        other = kind([parameter([1.0], [1.0]), parameter([1.0], [1.0])])
        other.step()
        with pytest.raises(ValueError, match=r"\(1,\), \(2,\) is needed"):
            optimizer.load_state_dict(other.state_dict())
        assert optimizer.steps == 0
        assert all((a == 0).all() for state in optimizer.state for a in state.values())

    def test_the_state_of_another_kind_is_refused(self, kind):
        other = SGD if kind is AdamW else AdamW
        state = other([parameter([1.0])]).state_dict()
        with pytest.raises(ValueError, match=r"optimizer: state \w+ missing, \(1,\) is needed"):
            kind([parameter([1.0])]).load_state_dict(state)

    def test_what_makes_no_sense_is_refused(self, kind):
        a = parameter([1.0])
        with pytest.raises(ValueError, match="no parameters given"):
            kind([])
        with pytest.raises(ValueError, match="unknown option 'speed'"):
            kind([{"params": [a], "speed": 1}])
        for twice in ([a, a], [{"params": [a]}, {"params": [a]}], [np.ones(1)]):
            with pytest.raises(ValueError, match="must be a Tensor, given once"):
                kind(twice)


def test_adamw_refuses_shapes_that_differ_and_a_step_before_the_first():
    arrays = [np.ones(n) for n in (2, 2, 2, 3)]
    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0}
    with pytest.raises(ValueError, match=r"v \(3,\), equal shapes are needed"):
        ops.adamw.compute(*arrays, step=1, **options)
    with pytest.raises(ValueError, match="step 0, 1 or more is needed"):
        ops.adamw.compute(*arrays[:3], arrays[0], step=0, **options)


@pytest.mark.parametrize(
    "op, options, message",
    [
        (
            ops.adamw,
            {"step": 1},
            "adamw: 5 arrays, param, grad, m, v of every parameter are needed",
        ),
        (ops.sgd, {}, "sgd: 5 arrays, param, grad, momentum_buffer of every parameter are needed"),
    ],
)
def test_an_update_wants_whole_groups_of_arrays(op, options, message):
    with pytest.raises(ValueError, match=message):
        op.compute(*(np.ones(2) for _ in range(5)), lr=0.1, **options)
    with pytest.raises(ValueError, match="0 arrays"):
        op.compute(lr=0.1, **options)


@pytest.mark.parametrize(
    "kind, shapes",
    [
        (AdamW, [(3, 5), (), (0, 4), (40_000,), (7,)]),
        (SGD, [(3, 5), (), (0, 4), (40_000,), (7,)]),
        (AdamW8bit, [(3, 5), (), (0, 4), (40_000,), (7,)]),
        (Muon, [(3, 5), (0, 4), (150, 300), (300, 150), (1, 7)]),
    ],
)
def test_all_parameters_at_once_are_updated_as_each_alone(kind, shapes):
    rng = np.random.default_rng(0)
    together = [nn.Parameter(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]
    apart = [nn.Parameter(param.data.copy()) for param in together]
    optimizers = kind(together, lr=0.1), [kind([param], lr=0.1) for param in apart]
    for _ in range(2):
        for one, other in zip(together, apart):
            one.grad = of(rng.standard_normal(one.shape).astype(np.float32))
            other.grad = one.grad
        for optimizer in (optimizers[0], *optimizers[1]):
            optimizer.step()
    for one, other in zip(together, apart):
        assert np.array_equal(one.data, other.data)


@pytest.mark.parametrize("kind", [AdamW, AdamW8bit, SGD, Muon])
@pytest.mark.parametrize("lay", [lambda a: a.T.copy().T, lambda a: np.repeat(a, 2, 1)[:, ::2]])
def test_a_parameter_may_lie_anyhow_in_memory(kind, lay):
    rng = np.random.default_rng(0)
    start, grad = rng.standard_normal((2, 24, 32)).astype(np.float32)
    found = []
    for layout in (lambda a: a.copy(), lay):
        params = [nn.Parameter(start.copy()) for _ in range(3)]
        params[1].data = layout(start)  # between others, which lie in a row
        optimizer = kind(params, lr=0.1, weight_decay=0.1)
        for _ in range(2):
            for param in params:
                param.grad = of(layout(grad))
            optimizer.step()
        found.append([param.data for param in params])
    assert not found[1][1].flags.c_contiguous
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert not np.array_equal(one, start)


@pytest.mark.parametrize("kind", [AdamW, AdamW8bit])
def test_after_very_many_steps_the_means_are_taken_as_they_are(kind):
    param = parameter(np.ones(300, np.float32), np.full(300, 0.5), np.float32)
    optimizer = kind([param], lr=0.1, betas=(0.5, 0.75), eps=0.0, weight_decay=0.0)
    optimizer.steps = 10**9  # 1 - beta ** steps is 1
    optimizer.step()
    np.testing.assert_allclose(param.data, 1 - 0.1 * 0.25 / 0.25, rtol=1e-6)


@pytest.mark.parametrize("kind", [AdamW, AdamW8bit, SGD, Muon])
def test_a_rate_of_nothing_moves_nothing_but_the_state(kind):
    rng = np.random.default_rng(0)
    start, grad = rng.standard_normal((2, 24, 32)).astype(np.float32)
    param = parameter(start, grad, np.float32)
    optimizer = kind([param], lr=0.0, weight_decay=0.5)
    optimizer.step()
    assert np.array_equal(param.data, start)
    assert all(array.any() for array in optimizer.state[0].values())


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    matrices, vectors = decay_groups(model.parameters(), 0.1)
    assert [p.shape for p in matrices["params"]] == [(3, 2)]
    assert [p.shape for p in vectors["params"]] == [(3,), (3,), (3,)]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert len(decay_groups([parameter([1.0])], 0.1)) == 1


class TestClipping:
    def params(self, scale=1.0, dtype="float32"):
        return [parameter([0.0], [3 * scale], dtype), parameter([0.0] * 2, [0, 4 * scale], dtype),
                parameter([0.0])]  # fmt: skip

    def test_the_joint_norm(self):
        assert grad_norm(self.params()) == 5
        assert abs(grad_norm(self.params(1e30)) / 5e30 - 1) < 1e-6
        assert grad_norm([parameter([1.0])]) == grad_norm([]) == 0
        assert grad_norm([parameter(np.ones(0), np.ones(0)), *self.params()]) == 5
        assert abs(grad_norm(self.params(8e37)) / 4e38 - 1) < 1e-6

    def test_long_gradients_are_shortened_and_short_ones_are_left(self):
        params = self.params()
        assert clip_grad_norm_(params, 1.0) == 5
        assert abs(grad_norm(params) - 1) < 1e-6
        np.testing.assert_allclose(params[0].grad.data, [0.6], rtol=1e-6)
        params = self.params()
        assert clip_grad_norm_(params, 6.0) == 5
        assert params[0].grad.data.tolist() == [3]

    def test_the_factor(self):
        assert [clip_scale(5, 1), clip_scale(1, 5), clip_scale(5, 0)] == [0.2, 1, 1]

    def test_no_arrays_have_no_norm(self):
        with pytest.raises(ValueError, match="norm: no arrays given, at least 1 is needed"):
            ops.norm.compute()

    def test_a_nan_shows_in_the_norm(self):
        assert math.isnan(grad_norm([parameter([1.0], [math.nan])]))
        assert grad_norm([parameter([1.0], [math.inf])]) == math.inf


class TestSchedules:
    @pytest.mark.parametrize(
        "schedule, points",
        [
            ("cosine", {0: 1, 0.25: 0.868198, 0.5: 0.55, 1: 0.1, 1.5: 0.1}),
            ("linear", {0: 1, 0.5: 0.55, 1: 0.1, 1.5: 0.1}),
            ("constant", {0: 1, 0.5: 1, 1: 1}),
            ("wsd", {0: 1, 0.8: 1, 0.9: 0.55, 1: 0.1}),
        ],
    )
    def test_from_the_peak_to_the_final_share(self, schedule, points):
        for progress, share in points.items():
            assert abs(scheduled(progress, schedule, final=0.1) - share) < 1e-6

    @pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
    def test_warm_up_is_linear_and_ends_at_the_peak(self, schedule):
        shares = [scheduled(p, schedule, warmup=0.2) for p in (0, 0.1, 0.2)]
        np.testing.assert_allclose(shares, [0, 0.5, 1], atol=1e-12)

    def test_the_rest_of_the_run_is_stretched_over_what_warm_up_leaves(self):
        assert abs(scheduled(0.6, "linear", warmup=0.2, final=0.0) - 0.5) < 1e-12

    def test_an_unknown_schedule_is_refused(self):
        with pytest.raises(ValueError, match="schedule: 'square', one of cosine"):
            scheduled(0.5, "square")


def test_the_norm_of_gradients_near_the_limit_of_float32_is_finite():
    param = nn.Parameter(np.zeros(4, np.float32))
    param.grad = Tensor(np.full(4, 3e38, np.float32))
    assert optim.grad_norm([param]) == pytest.approx(6e38, rel=1e-6)
    assert optim.clip_grad_norm_([param], 1.0) == pytest.approx(6e38, rel=1e-6)
    np.testing.assert_allclose(param.grad.numpy(), 0.5, rtol=1e-5)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_gradients_that_are_not_finite_are_not_clipped(value):
    param = nn.Parameter(np.zeros(2, np.float32))
    param.grad = Tensor(np.array([1, value], np.float32))
    with pytest.raises(RuntimeError, match="finite gradients are needed"):
        optim.clip_grad_norm_([param], 1.0)
    assert param.grad.numpy()[0] == 1


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"weight_decay": -0.1}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match="is needed"):
        optim.AdamW([nn.Parameter(np.zeros(2, np.float32))], **options)


def rotated(optimizer_kind, steps=200, **options):
    """The loss of a badly scaled quadratic after some steps."""
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.uniform(-2, 2, 600)
    start = rng.normal(size=(2, 300)).astype(np.float32)
    param = parameter(start)
    optimizer = optimizer_kind([param], lr=0.02, weight_decay=0.0, **options)
    for _ in range(steps):
        slope = scales.reshape(2, 300) * param.data
        param.grad = type(param)((slope + 0.01 * rng.normal(size=slope.shape)).astype(np.float32))
        optimizer.step()
    return float((scales.reshape(2, 300) * param.data**2).sum()), optimizer


def test_moments_of_eight_bits_go_where_those_of_thirty_two_go():
    begin = rotated(AdamW, steps=0)[0]
    plain, _ = rotated(AdamW)
    small, optimizer = rotated(AdamW8bit)
    assert plain < 0.05 * begin
    assert small < 2 * plain + 1e-3 * begin
    kept = sum(array.nbytes for state in optimizer.state for array in state.values())
    assert kept < 2.1 * 600


def test_the_first_step_of_eight_bits_is_that_of_adamw():
    rng = np.random.default_rng(1)
    values, slopes = rng.normal(size=(2, 3, 400)).astype(np.float32)
    found = []
    for kind in (AdamW, AdamW8bit):
        param = parameter(values.copy())
        optimizer = kind([param], lr=0.1, weight_decay=0.1)
        param.grad = type(param)(slopes)
        optimizer.step(0.5)
        found.append(param.data)
    assert np.array_equal(*found)


def test_what_eight_bits_keep_is_near_and_a_small_mean_square_is_never_nothing():
    rng = np.random.default_rng(2)
    param = parameter(np.zeros(1000))
    slopes = (rng.normal(size=1000) * 10.0 ** rng.uniform(-4, 0, 1000)).astype(np.float32)
    optimizer = AdamW8bit([param], lr=0.0)
    param.grad = type(param)(slopes)
    optimizer.step()
    (state,) = optimizer.state
    assert (state["v"][slopes != 0] > 0).all()
    exact = 0.1 * slopes
    scales = np.repeat(state["m_scale"], 256)[:1000]
    found = np.sign(state["m"]) * (state["m"] / 127.0) ** 2 * scales
    assert np.abs(found - exact).max() < 0.01 * np.abs(exact).max()
    assert np.array_equal(np.sign(found[found != 0]), np.sign(exact[found != 0]))
    saved = optimizer.state_dict()
    other = AdamW8bit([parameter(np.zeros(1000))])
    other.load_state_dict(saved)
    assert all(np.array_equal(other.state[0][name], array) for name, array in state.items())


def test_a_state_of_eight_bits_from_an_older_run_goes_on():
    """Codes and scales as they are in saved runs, and the step from them in Python numbers."""
    saved = {
        "m": np.array([127, -127, 64, 0] * 65, np.int8),
        "m_scale": np.array([2.0, 0.5], np.float32),
        "v": np.array([255, 128, 1, 200] * 65, np.uint8),
        "v_scale": np.array([4.0, 0.25], np.float32),
    }
    param = parameter(np.zeros(260), np.ones(260), np.float32)
    optimizer = AdamW8bit([param], lr=1.0, betas=(0.5, 0.5), eps=0.0, weight_decay=0.0)
    optimizer.load_state_dict({"steps": 99, "state": [saved]})
    optimizer.step()
    for place in (0, 1, 2, 3, 255, 256, 257, 258, 259):
        block, code = place // 256, int(saved["m"][place])
        m = 0.5 * math.copysign((code / 127) ** 2, code) * saved["m_scale"][block] + 0.5
        v = 0.5 * (int(saved["v"][place]) / 255) ** 4 * saved["v_scale"][block] + 0.5
        assert param.data[place] == pytest.approx(-m / math.sqrt(v), rel=1e-5, abs=1e-6)
    (state,) = optimizer.state
    assert state["m_scale"].tolist() == [1.5, 0.75]
    assert state["v_scale"].tolist() == [2.5, 0.625]
    assert state["m"][:4].tolist() == [127, -round(127 * (0.5 / 1.5) ** 0.5), 90, 73]
    assert state["v"][256] == 255


def test_what_eight_bits_do_not_fit_is_refused():
    rates = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.0}
    arrays = [np.ones(300, np.float32)] * 2
    arrays += [np.zeros(300, np.int8), np.ones(2), np.zeros(300, np.uint8), np.ones(1)]
    with pytest.raises(ValueError, match=r"adamw8bit: v_scale \(1,\), \(2,\) is needed"):
        ops.adamw8bit.compute(*arrays, step=1, **rates)
    with pytest.raises(ValueError, match=r"adamw8bit: 5 arrays, param, grad, m, m_scale, v, v_s"):
        ops.adamw8bit.compute(*arrays[:5], step=1, **rates)
    arrays[5] = np.ones(2)
    with pytest.raises(ValueError, match="adamw8bit: step 0, 1 or more is needed"):
        ops.adamw8bit.compute(*arrays, step=0, **rates)

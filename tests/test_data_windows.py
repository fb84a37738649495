"""Windows: which tokens a sample holds, and that nothing but its number decides it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data import Windows, validation


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_one_token_more_than_the_context_is_one_window(dtype):
    windows = Windows(np.arange(65, dtype=dtype), 64, seed=3)
    inputs, targets = windows.batch(0, 2)
    assert windows.per_epoch == 1
    for row in range(2):
        np.testing.assert_array_equal(inputs[row], np.arange(64))
        np.testing.assert_array_equal(targets[row], np.arange(1, 65))
    assert inputs.dtype == targets.dtype == np.int64
    assert inputs.flags.c_contiguous and targets.flags.c_contiguous


@pytest.mark.parametrize("count", [0, 1, 40, 64])
def test_too_few_tokens_are_refused_with_both_numbers(count):
    ids = np.zeros(count, np.uint16)
    for act in (lambda: Windows(ids, 64, 0), lambda: validation(ids, 64, 1)):
        with pytest.raises(ValueError, match=f": {count} tokens: .* of 64 needs at least 65"):
            act()


@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 2**70), st.integers(0, 5))
def test_each_token_is_a_target_at_most_once_an_epoch(n, context, seed, epoch):
    if n <= context:
        return
    windows = Windows(np.arange(n, dtype=np.uint16), context, seed)
    count = windows.per_epoch
    assert count == (n - 1) // context
    inputs, targets = windows.batch(epoch * count, count)
    np.testing.assert_array_equal(inputs + 1, targets)
    assert inputs.min() >= 0 and targets.max() <= n - 1
    assert len(np.unique(targets)) == targets.size == count * context
    assert len(np.unique((inputs[:, 0] - inputs.min()) % context)) == 1


@given(
    st.integers(0, 100), st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 2**40)
)
def test_a_sample_depends_on_its_number_alone(seed, sizes, first):
    ids = np.arange(50, dtype=np.uint16)
    whole = Windows(ids, 7, seed).batch(first, sum(sizes))
    windows, at, parts = Windows(ids, 7, seed), first, []
    windows.batch(first + 1000, 3)
    for size in sizes:
        parts.append(windows.batch(at, size))
        at += size
    for got, wanted in zip(map(np.concatenate, zip(*parts)), whole):
        np.testing.assert_array_equal(got, wanted)


def test_epochs_differ_in_order_and_phase_and_so_do_seeds():
    windows = Windows(np.arange(1000), 9, seed=1)
    epochs = [
        windows.batch(epoch * windows.per_epoch, windows.per_epoch)[0][:, 0] for epoch in range(12)
    ]
    assert len({tuple(starts) for starts in epochs}) == 12
    assert {int(starts.min()) for starts in epochs} == {0}, "1000 - 1 is a multiple of 9: no slack"
    loose = Windows(np.arange(998), 9, seed=1)
    assert {int(loose.batch(epoch * 110, 110)[0].min()) for epoch in range(40)} == set(range(8))
    other = Windows(np.arange(1000), 9, seed=2).batch(0, 111)[0][:, 0]
    assert tuple(other) != tuple(epochs[0])


def test_the_order_is_the_one_it_always_was():
    """Frozen: a resumed run must meet the same samples in a later version."""
    starts = Windows(np.arange(104), 10, seed=42).batch(0, 20)[0][:, 0].tolist()
    assert starts[:10] == [2, 32, 92, 12, 52, 72, 42, 82, 62, 22]
    assert starts[10:] == [61, 21, 31, 11, 41, 81, 91, 51, 71, 1]


def test_wrong_arguments_are_refused():
    ids = np.arange(10)
    with pytest.raises(ValueError, match="seed -1, 0 or more is needed"):
        Windows(ids, 2, -1)
    with pytest.raises(ValueError, match="a context of 0, at least 1 is needed"):
        Windows(ids, 0, 0)
    with pytest.raises(TypeError, match="ids are float64, integers are needed"):
        Windows(ids * 1.0, 2, 0)
    with pytest.raises(ValueError, match=r"ids of shape \(2, 5\), one dimension is needed"):
        Windows(ids.reshape(2, 5), 2, 0)
    for first, size in ((-1, 1), (0, 0)):
        with pytest.raises(ValueError, match=f"{size} samples from {first}, at least 1 from 0"):
            Windows(ids, 2, 0).batch(first, size)
    with pytest.raises(ValueError, match="batches of 0 limited to None tokens"):
        validation(ids, 2, 0)
    with pytest.raises(ValueError, match="limited to 0 tokens"):
        validation(ids, 2, 1, 0)


@pytest.mark.parametrize(
    "n, context, batch_size, shapes",
    [
        (65, 64, 8, [(1, 64)]),
        (66, 64, 8, [(1, 64), (1, 1)]),
        (50, 7, 3, [(3, 7), (3, 7), (1, 7)]),
        (53, 7, 3, [(3, 7), (3, 7), (1, 7), (1, 3)]),
    ],
)
def test_validation_meets_every_target_once_in_order(n, context, batch_size, shapes):
    ids = np.arange(n, dtype=np.uint16)
    batches = list(validation(ids, context, batch_size))
    assert [inputs.shape for inputs, _ in batches] == shapes
    assert np.concatenate([inputs.ravel() for inputs, _ in batches]).tolist() == list(range(n - 1))
    assert np.concatenate([out.ravel() for _, out in batches]).tolist() == list(range(1, n))


def test_limited_validation_is_spread_over_the_whole():
    ids = np.arange(1001)
    starts = np.concatenate([inputs[:, 0] for inputs, _ in validation(ids, 10, 4, 55)])
    assert starts.tolist() == [0, 200, 400, 600, 800]
    assert sum(inputs.size for inputs, _ in validation(ids, 10, 4, 1000)) == 1000
    assert [inputs.shape for inputs, _ in validation(ids, 10, 4, 3)] == [(1, 10)]

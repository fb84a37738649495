"""The device that the host plays shows the mistakes that a kernel can make."""

import numpy as np
import pytest

from cuda_device import device, library

pytestmark = pytest.mark.skipif(
    device is None or device.name != "cuda on host",
    reason="MINILLM_CUDA_ON_HOST names no library that plays a GPU",
)
ORDERS = range(1, 21)


def results(name):
    """Of each order in which threads may run."""
    found = []
    for seed in ORDERS:
        library.runtime.set_order(seed)
        found.append(library.runtime.run_wrong_kernel(name))
    library.runtime.set_order(0)
    return found


@pytest.mark.parametrize(
    "name, right", [("reverse", list(range(63, -1, -1))), ("in turn", list(range(64)))]
)
def test_a_missing_barrier_shows(name, right):
    assert results(name) == [right] * len(ORDERS)
    wrong = results(f"{name} without barrier")
    assert sum(found != right for found in wrong) > len(ORDERS) / 2


@pytest.mark.parametrize("name", ["barrier for some", "lanes in two operations"])
def test_threads_that_wait_for_ever_are_an_error(name):
    with pytest.raises(RuntimeError, match=r"^cuda_on_host: thread \d+ waits in __\w+ for others"):
        library.runtime.run_wrong_kernel(name)


def test_a_lane_outside_its_mask_is_an_error():
    with pytest.raises(RuntimeError, match="__shfl_sync by a lane that is not in its mask"):
        library.runtime.run_wrong_kernel("lane outside its mask")


def test_a_device_without_memory_enough_is_a_memory_error():
    rows, ids = np.zeros((700, 4), np.float32), np.arange(700)
    arrays = map(device.put, (rows, ids, np.empty_like(rows)))
    library.runtime.set_most_bytes(0)
    try:
        with pytest.raises(MemoryError, match="cudaErrorMemoryAllocation, out of memory"):
            library.embedding_backward(*arrays, False)
    finally:
        library.runtime.set_most_bytes(2**62)


def test_memory_that_nobody_wrote_is_garbage():
    assert set(library.runtime.run_wrong_kernel("reads what nobody wrote")) == {-1}


def test_static_memory_that_nobody_wrote_is_garbage_too():
    if not library.runtime.fills_static_shared:
        pytest.skip("the library is built with a sanitizer, which guards that memory instead")
    for _ in range(2):
        assert set(library.runtime.run_wrong_kernel("reads static memory")) == {-1}


def test_the_next_kernel_runs_after_one_that_failed():
    with pytest.raises(RuntimeError):
        library.runtime.run_wrong_kernel("barrier for some")
    assert library.runtime.run_wrong_kernel("reverse") == list(range(63, -1, -1))

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


@pytest.mark.parametrize(
    "name, told",
    [
        ("shared memory as global", "of memory that is shared"),
        ("static memory as global", "of memory that is shared"),
        ("own memory as global", "of memory that is a thread's own"),
        ("four at an odd place", "of an address that 16 does not divide"),
    ],
)
def test_an_instruction_for_global_memory_takes_no_other(name, told):
    if name.startswith("static") and not library.runtime.fills_static_shared:
        pytest.skip("built with a sanitizer, the library does not know where that memory lies")
    with pytest.raises(RuntimeError, match=f"^cuda_on_host: __ldg {told}$"):
        library.runtime.run_wrong_kernel(name)


@pytest.mark.parametrize(
    "name, told",
    [
        ("constants that change", "__ldg of memory that the same kernel has changed"),
        ("matrices of global memory", "ldmatrix of memory that is not shared"),
        ("a copy to an odd place", "cp.async of an address that 16 does not divide"),
        ("shared memory of 100 KB", "a launch that no GPU takes"),
        ("a grid of 65536 rows", "a launch that no GPU takes"),
    ],
)
def test_what_a_card_would_refuse_is_refused(name, told):
    with pytest.raises(RuntimeError, match=f"^cuda_on_host: {told}$"):
        library.runtime.run_wrong_kernel(name)


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


class TestCapture:
    """Work of a stream that is kept and done later, as a graph of CUDA's does it."""

    rows = np.array([[0, 1, 2], [2, 1, 0]], np.float32)

    def arrays(self):
        return device.put(self.rows.copy()), device.put(np.zeros_like(self.rows))

    def kept(self, *calls):
        library.on_host.begin_capture()
        try:
            for call in calls:
                call()
        finally:
            kept = library.on_host.end_capture()
        return kept

    def test_it_runs_when_it_is_told_and_each_time_on_what_is_there(self):
        x, out = self.arrays()
        kept = self.kept(lambda: library.softmax_forward(x, out))
        assert not out.get().any()
        for change in (0, 3):
            x[0, 0] = change
            kept.run()
            weights = np.exp(x.get())
            np.testing.assert_allclose(out.get(), weights / weights.sum(-1)[:, None], rtol=1e-6)

    def test_scratch_memory_is_there_whenever_it_runs(self):
        """Sorted in memory of the call, which is garbage between two runs."""
        ids = np.random.default_rng(0).integers(0, 5, 900)
        rows = np.ones((900, 2), np.float32)
        arrays = [device.put(rows), device.put(ids), device.put(np.zeros((5, 2), np.float32))]
        kept = self.kept(lambda: library.embedding_backward(*arrays, False))
        for _ in range(2):
            kept.run()
            np.testing.assert_array_equal(arrays[2].get()[:, 0], np.bincount(ids))
        arrays[1][...] = 4
        kept.run()
        np.testing.assert_array_equal(arrays[2].get()[:, 0], [0, 0, 0, 0, 900])

    @pytest.mark.parametrize("sizes", [(40, 9, 5), (40, 8, 5)], ids=["workspace", "none"])
    def test_products_of_the_library_are_kept_as_they_were_asked_for(self, sizes):
        """The next product changes what describes this one."""
        n, k, m = sizes
        draw = np.random.default_rng(0)
        x, *weights = (draw.normal(size=(rows, k)).astype(np.float32) for rows in (n, m, m))
        biases = [np.full(m, number, np.float32) for number in (1, -1)]
        outs = [np.zeros((n, m), np.float32) for _ in weights]
        given = [device.put(x), *([device.put(a) for a in many] for many in (weights, biases))]
        put = [device.put(out) for out in outs]

        def products():
            for weight, bias, out in zip(*given[1:], put):
                library.linear_forward(given[0], weight, bias, None, out)

        kept = self.kept(products)
        assert not any(out.get().any() for out in put)
        kept.run()
        for weight, bias, out in zip(weights, biases, put):
            np.testing.assert_allclose(out.get(), x @ weight.T + bias, rtol=1e-5, atol=1e-5)

    def test_what_is_cut_runs_apart(self):
        x, out = self.arrays()
        again = device.put(np.zeros_like(self.rows))
        library.on_host.begin_capture()
        library.softmax_forward(x, out)
        first = library.on_host.cut()
        library.softmax_forward(out, again)
        second = library.on_host.end_capture()
        first.run()
        assert out.get().all() and not again.get().any()
        second.run()
        assert again.get().all()

    @pytest.mark.parametrize("most", [0, 6000])  # of which the first of its arrays takes 5,600
    def test_memory_that_is_not_to_be_had_is_told_while_capturing_and_spoils_it(self, most):
        rows, ids = np.zeros((700, 128), np.float32), np.arange(700)
        arrays = [device.put(array) for array in (rows, ids, np.empty_like(rows))]
        library.on_host.begin_capture()
        library.runtime.set_most_bytes(most)
        try:
            with pytest.raises(MemoryError):
                library.embedding_backward(*arrays, False)
        finally:
            library.runtime.set_most_bytes(2**62)
            with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated"):
                library.on_host.end_capture()
        library.embedding_backward(*arrays, False)  # goes on as ever

    def test_nothing_runs_and_nothing_begins_in_the_middle_of_it(self):
        x, out = self.arrays()
        kept = self.kept(lambda: library.softmax_forward(x, out))
        library.on_host.begin_capture()
        for wrong in (kept.run, library.on_host.begin_capture):
            with pytest.raises(RuntimeError, match=r"^cuda_on_host: "):
                wrong()
        library.on_host.end_capture()
        for wrong in (library.on_host.cut, library.on_host.end_capture):
            with pytest.raises(RuntimeError, match=r"^cuda_on_host: nothing is captured"):
                wrong()

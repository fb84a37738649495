"""Memory that kernels take beside arrays: counted, bounded with them, asked for twice."""

import numpy as np
import pytest

import stand_in_cupy
from cuda_device import device, library, needs_device
from minillm import device_memory
from minillm.arrays import to_device
from minillm.models.opening import require_memory
from small_gpt2 import small
from test_cuda_training import engine

pytestmark = [
    needs_device,
    pytest.mark.skipif(
        device is None or device.name != "cuda on host", reason="counts what the host plays"
    ),
]
__all__ = ["engine"]
ROWS = 700


@pytest.fixture(autouse=True)
def gpu(engine):
    """A GPU whose memory is watched, and of which kernels hold nothing."""
    device_memory.release("cuda")
    yield stand_in_cupy.machine
    library.runtime.set_most_bytes(2**62)
    device_memory.limit("cuda", 0)
    device_memory.release("cuda")


def gradient():
    """A kernel that sorts, in memory of its own: all rows of a gradient added up."""
    grad = to_device(np.ones((ROWS, 4), np.float32), "cuda")
    ids, total = to_device(np.zeros(ROWS, np.int64), "cuda"), to_device(np.zeros((1, 4)), "cuda")
    total = total.astype(np.float32)
    library.embedding_backward(grad, ids, total, True)
    return total.get().tolist()


def test_what_kernels_hold_is_counted_and_given_back(gpu):
    before = device_memory.held("cuda")
    assert gradient() == [[ROWS] * 4]
    used, kept = library.runtime.scratch_bytes()
    assert used == 0 < 8 * ROWS < kept
    assert device_memory.held("cuda") == gpu.pooled[0] + kept > before
    gpu.bytes = 1_000_000
    assert device_memory.free("cuda") == gpu.bytes - gpu.held[0] + kept  # as it may be used again
    device_memory.release("cuda")
    assert library.runtime.scratch_bytes() == (0, 0)


def test_both_kinds_of_memory_share_one_bound(gpu):
    device_memory.limit("cuda", 100_000)
    assert gradient() == [[ROWS] * 4]
    kept = library.runtime.scratch_bytes()[1]
    assert gpu.limits[0] == 100_000 - kept
    assert device_memory.free("cuda") == 100_000 - gpu.held[0]
    large = to_device(np.zeros(99_000, np.uint8), "cuda")  # for which scratch is given back
    assert library.runtime.scratch_bytes() == (0, 0) and gpu.limits[0] == 100_000
    with pytest.raises(MemoryError) as caught:
        to_device(np.zeros(2_000, np.uint8), "cuda")
    assert device_memory.shortage(caught.value) == (2_000, 99_000, 100_000)
    del large
    assert gradient() == [[ROWS] * 4]
    device_memory.limit("cuda", 0)
    assert gpu.limits[0] == 0


def test_scratch_beyond_the_bound_is_refused_with_the_figures(gpu):
    device_memory.limit("cuda", 20_000)
    with pytest.raises(MemoryError) as caught:
        gradient()
    asked, used, most = device_memory.shortage(caught.value)
    assert most == 20_000 and 0 < used <= most < asked + used
    device_memory.limit("cuda", 0)
    assert gradient() == [[ROWS] * 4]


def test_scratch_is_asked_for_again_once_arrays_have_made_room(gpu, monkeypatch):
    device_memory.held("cuda")  # from here on kernels ask

    def free_all_blocks():
        library.runtime.set_most_bytes(2**62)

    with monkeypatch.context() as patch:
        patch.setattr(stand_in_cupy.pool, "free_all_blocks", free_all_blocks, raising=False)
        library.runtime.set_most_bytes(0)
        assert gradient() == [[ROWS] * 4]
    library.runtime.set_most_bytes(0)
    with pytest.raises(MemoryError) as caught:
        gradient()
    asked, _, most = device_memory.shortage(caught.value)
    assert asked > 0 and most == gpu.bytes


def test_memory_of_a_graph_is_counted_as_long_as_it_lives(gpu):
    grad = to_device(np.ones((ROWS, 4), np.float32), "cuda")
    ids = to_device(np.zeros(ROWS, np.int64), "cuda")
    total = to_device(np.zeros((1, 4), np.float32), "cuda")
    library.on_host.begin_capture()
    library.embedding_backward(grad, ids, total, True)
    recording = library.on_host.end_capture()
    kept = library.runtime.scratch_bytes()[1]
    assert kept > 8 * ROWS
    assert device_memory.held("cuda") == gpu.pooled[0] + kept
    recording.run()
    assert total.get().tolist() == [[ROWS] * 4]
    del recording
    assert library.runtime.scratch_bytes() == (0, 0)


def test_a_model_is_refused_by_what_is_left_of_the_bound(gpu):
    config = small().config
    device_memory.limit("cuda", 1_000)
    with pytest.raises(ValueError, match=r"needs .* of memory of cuda"):
        require_memory(config, "here", device="cuda")

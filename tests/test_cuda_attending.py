"""Models on the GPU whose attention has a bias that learns, or a window."""

import numpy as np
import pytest

import small_t5
import stand_in_cupy
from cuda_device import device, needs_device
from minillm import Tensor, kernels, nn, no_grad, ops, testing
from minillm.arrays import new_generator
from test_cuda_training import engine

pytestmark = needs_device
__all__ = ["engine"]


def gradients(model, mask):
    model.loss(small_t5.IDS, small_t5.TARGETS, mask).backward()
    return [parameter.grad.numpy() for parameter in model.parameters()]


@pytest.mark.parametrize("mask", [None, small_t5.MASK], ids=["shared", "padded"])
def test_t5_learns_by_kernels_alone(mask, monkeypatch):
    """As far as moving every weight by its rounding moves its gradients, times what is allowed."""
    with kernels.use("reference"):
        wanted, moves = gradients(small_t5.small(), mask), []
        for seed in range(testing.DRAWS):
            moved, rng = small_t5.small(), new_generator(seed)
            with no_grad():
                for parameter in moved.parameters():
                    (near,) = testing.perturbed([parameter.data], rng, testing.EPS["float32"])
                    parameter.copy_(near.astype(np.float32))
            moves.append([abs(a - b).max() for a, b in zip(gradients(moved, mask), wanted)])
    for direction in ("forward", "backward"):  # the definition is not to be asked
        monkeypatch.setattr(ops.scaled_dot_product_attention, direction, None)
    found = gradients(small_t5.small().to("cuda"), mask)
    allowed = testing.budget([], []) * np.max(moves, axis=0)
    off = np.array([abs(a - b).max() for a, b in zip(found, wanted)])
    assert (off <= allowed).all(), off / allowed


def test_a_window_of_a_long_text_takes_no_memory_for_pairs_of_tokens():
    if device.name != "cuda on host":
        pytest.skip("the memory of a GPU is not to be chosen")
    length, window = 1500, 40
    arrays = [new_generator(seed).standard_normal((1, 1, length, 4)) for seed in range(4)]
    *inputs, upstream = (array.astype(np.float32) for array in arrays)
    found = []
    for where in ("cpu", "cuda"):
        if where == "cuda":
            machine = stand_in_cupy.machine
            machine.bytes = machine.held[0] + length * length // 2
        q, k, v = (Tensor(x).to(where).requires_grad_() for x in inputs)
        out = nn.attend(q, k, v, window=window)
        out.backward(Tensor(upstream).to(where))
        found.append([out.numpy(), *(x.grad.numpy() for x in (q, k, v))])
    for there, here in zip(*found):
        np.testing.assert_allclose(there, here, atol=2e-5)

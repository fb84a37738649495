"""Training by CUDA graphs: what they compute is what is computed without them, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

import stand_in_cupy
from cuda_device import device, library, needs_device
from minillm import kernels
from minillm.arrays import to_device, to_numpy
from minillm.ops.dropout import MASK_64, dropout
from minillm.training.trainer import Trainer
from small_runs import trainer

pytestmark = needs_device


@pytest.fixture(autouse=True)
def engine():
    """Arrays of the GPU, or of what plays one, and its library in use."""
    if device.name != "cuda on host":
        yield
        return
    with stand_in_cupy.installed(library):
        yield


def on_gpu(folder, monkeypatch=None, graphs=True, **options):
    kernels.graphs = graphs
    run = trainer(folder, **options)
    return Trainer(run.model, run.objective, replace(run.settings, device="cuda"), run.folder)


def after(run, steps):
    """What each step measured, and the weights after them."""
    found = [run.step(n / 8) for n in range(steps)]
    measured = [(one.loss, one.grad_norm, one.lr, one.skipped) for one in found]
    return measured, {name: to_numpy(p.data) for name, p in run.trained.items()}


def same(one, other):
    assert one[0] == other[0]
    for name, weight in one[1].items():
        assert np.array_equal(weight, other[1][name]), name


@pytest.mark.parametrize("options", [{"dropout": 0.1}, {"dropout": 0.1, "accumulate": 2}], ids=str)
def test_graphs_give_the_bits_of_steps_without(tmp_path, options):
    wanted = after(on_gpu(tmp_path / "eager", graphs=False, **options), 5)
    run = on_gpu(tmp_path / "graphs", **options)
    same(after(run, 5), wanted)
    assert run.gradients.told() is None
    assert run.gradients.graphs == options.get("accumulate", 1)


@pytest.mark.parametrize("provider", ["auto", "reference"])
@pytest.mark.parametrize("seed", [0, 7, (1 << 63) - 1, MASK_64])
def test_a_seed_that_the_gpu_reads_drops_what_the_number_does(provider, seed):
    x = np.linspace(-1, 1, 1001, dtype=np.float32)
    there, at = to_device(x, "cuda"), to_device(np.array([seed], np.uint64), "cuda")
    with kernels.use(provider):
        found, _ = dropout.compute(there, p=0.3, seed=at)
        wanted, _ = dropout.compute(there, p=0.3, seed=seed)
        (gradient,) = dropout.run_backward(there, (), {"p": 0.3, "seed": at})
    assert to_numpy(found).tobytes() == to_numpy(wanted).tobytes() == to_numpy(gradient).tobytes()
    assert 200 < np.count_nonzero(to_numpy(found) == 0) < 400

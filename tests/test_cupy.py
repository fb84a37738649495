"""The CuPy path without a GPU: ops, training, generation on arrays that do what CuPy's do."""

import inspect
from dataclasses import replace

import numpy as np
import pytest

import stand_in_cupy
from minillm import Tensor, kernels, testing
from minillm.arrays import scatter_add, to_device, to_numpy
from minillm.generation.reading import Reader
from minillm.models import GPT2
from minillm.ops import cross_entropy
from minillm.optim import (
    SGD,
    AdamW,
    AdamW8bit,
    Muon,
    clip_scale,
    decay_groups,
    grad_norm,
    muon_groups,
)
from minillm.training import state as states
from minillm.training.batches import Batches
from minillm.training.trainer import Trainer
from small_gpt2 import IDS, TARGETS, small
from small_runs import trainer
from test_equality import FAMILIES, LONG, SAMPLED, SHORT, decodes, written
from test_ops import Small, each_gradient, each_op


@pytest.fixture
def count(monkeypatch):
    stand_in_cupy.let_numpy_add_alike(monkeypatch)
    with stand_in_cupy.installed() as counted, kernels.use("reference"):
        yield counted


def cases(op, number=8):
    for seed in range(number):
        arrays, params = op.sample(Small(seed))
        yield testing.cast(arrays, "float32"), params


def moved(value):
    """The same on the device: arrays, and arrays in tuples."""
    if isinstance(value, np.ndarray):
        return to_device(value.copy(), "cuda")
    return tuple(map(moved, value)) if isinstance(value, tuple) else value


def same(found, wanted):
    if isinstance(wanted, tuple | list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted):
            same(one, other)
    elif isinstance(wanted, np.ndarray | np.generic):
        assert isinstance(found, stand_in_cupy.ndarray)
        assert found.dtype == wanted.dtype
        assert np.array_equal(to_numpy(found), wanted, equal_nan=True)
    else:
        assert found is None if wanted is None else found == wanted


@each_op
def test_the_definition_runs_on_the_device(op, count):
    for arrays, params in cases(op):
        on_device = [moved(array) for array in arrays]
        same(op.compute(*on_device, **params), op.compute(*arrays, **params))
        for place in op.mutated(len(arrays)):
            same(on_device[place], arrays[place])


@each_gradient
def test_the_gradient_runs_on_the_device(op, count):
    for arrays, params in cases(op):
        out, saved = op.compute(*arrays, **params)
        grad = np.asarray(np.random.default_rng(0).standard_normal(np.shape(out)), np.float32)
        found = op.run_backward(moved(grad), moved(saved), params)
        same(list(found), list(op.run_backward(grad, saved, params)))


@pytest.mark.parametrize("index", ["rows", "pairs"])
def test_gradients_of_repeated_places_have_the_same_bits(index, count):
    rng = np.random.default_rng(1)
    rows, columns = rng.integers(-3, 3, 200), rng.integers(0, 5, 200)
    chosen = rows if index == "rows" else (rows, columns)
    where = to_device(rows, "cuda") if index == "rows" else tuple(map(moved, chosen))
    wanted = np.zeros((3, 5), np.float32)
    values = rng.standard_normal(wanted[chosen].shape).astype(np.float32)
    np.add.at(wanted, chosen, values)
    found = set()
    for _ in range(5):
        total = to_device(np.zeros((3, 5), np.float32), "cuda")
        scatter_add(stand_in_cupy.module(), total, where, moved(values))
        np.testing.assert_allclose(to_numpy(total), wanted, rtol=1e-4, atol=1e-5)
        found.add(to_numpy(total).tobytes())
    assert len(found) == 1


def test_the_stand_in_has_the_signatures_of_cupy():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    for name, parameters in stand_in_cupy.SIGNATURES.items():
        if name == "matmul":  # a generalised ufunc takes any number
            continue
        assert list(inspect.signature(getattr(cupy, name)).parameters) == parameters.split(), name
    for name in stand_in_cupy.UFUNCS:
        assert getattr(cupy, name).nin == getattr(np, name).nin
    for name in stand_in_cupy.CONSTANTS:
        getattr(cupy, name)
    for name in stand_in_cupy.RUNTIME:
        getattr(cupy.cuda.runtime, name)
    for name in ("id", "use", "synchronize", "__enter__", "__exit__"):
        getattr(cupy.cuda.Device, name)
    for name in ("used_bytes", "total_bytes", "free_all_blocks", "set_limit", "get_limit"):
        getattr(cupy.cuda.MemoryPool, name)
    assert cupy.cuda.get_allocator() == cupy.get_default_memory_pool().malloc
    assert callable(cupy.cuda.set_allocator)
    for kind in ("Stream", "Event", "Graph", "MemoryPool"):
        own, there = getattr(stand_in_cupy.streams, kind), getattr(cupy.cuda, kind)
        for name in STREAMS[kind].split():
            assert hasattr(own, name) and hasattr(there, name), name
    for name in ("using_allocator", "alloc_pinned_memory", "get_current_stream"):
        getattr(cupy.cuda, name)
    for name in (*stand_in_cupy.METHODS, "device", "get", "set", "item", "tolist", "tobytes"):
        getattr(cupy.ndarray, name)


STREAMS = {  # what is asked of them
    "Stream": "null __enter__ __exit__ record wait_event synchronize begin_capture end_capture",
    "Event": "record done synchronize",
    "Graph": "launch",
    "MemoryPool": "malloc used_bytes total_bytes free_all_blocks",
}
OPTIMIZERS = {
    "adamw": lambda model: AdamW(decay_groups(model.parameters(), 0.1), lr=1e-2),
    "adamw8bit": lambda model: AdamW8bit(decay_groups(model.parameters(), 0.1), lr=1e-2),
    "muon": lambda model: Muon(muon_groups(model, 0.1), lr=1e-2),
    "sgd": lambda model: SGD(model.parameters(), lr=1e-2, momentum=0.9),
}


def trained(model, make, steps=3):
    """Losses of some steps, and the weights after them."""
    optimizer = make(model)
    losses = [step(model, optimizer).item() for _ in range(steps)]
    return losses, [parameter.numpy() for parameter in model.parameters()]


def step(model, optimizer):
    optimizer.zero_grad()
    loss = model.loss(IDS, TARGETS)
    loss.backward()
    optimizer.step(clip_scale(grad_norm(optimizer.parameters()), 1.0))
    return loss


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_on_the_device_has_the_same_bits(optimizer, count):
    wanted = trained(small(), OPTIMIZERS[optimizer])
    losses, weights = trained(small().to("cuda"), OPTIMIZERS[optimizer])
    assert losses == wanted[0]
    for one, other in zip(weights, wanted[1]):
        assert np.array_equal(one, other)


def test_a_step_waits_for_its_loss_and_its_norm_alone(count):
    model = small().to("cuda")
    optimizer = OPTIMIZERS["adamw"](model)
    for _ in range(2):
        count.waits.clear()
        count.uploads.clear()
        loss = step(model, optimizer)
        assert count.waits == ["__float__"]  # the norm
        assert len(count.uploads) == 3  # ids, their places, targets
        loss.item()
        assert count.waits[1:] == ["item"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{"temperature": 0}, SAMPLED], ids=["greedy", "sampled"])
def test_generation_on_the_device_writes_the_same(family, options, count):
    model = FAMILIES[family]()
    wanted = written(model, [SHORT, LONG], options)
    assert written(model.to("cuda"), [SHORT, LONG], options) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_on_the_device(family, count):
    wanted, found = (gradients(FAMILIES[family]().to(where)) for where in ("cpu", "cuda"))
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert np.array_equal(gradient, wanted[name]), name


def gradients(model):
    """Of every weight, by its name, and the loss."""
    ids = np.array([[1, 5, 7, 0], [2, 2, 9, 11]])
    inputs = (ids, ids[:, ::-1].copy()) if decodes(model) else (ids,)
    loss = cross_entropy(model(*inputs), np.array([[5, 7, 0, -100], [2, 9, 11, 3]]))
    loss.backward()
    found = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.numpy()}


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "muon"])
def test_a_step_of_a_run_waits_twice_and_builds_the_next_batches_before(tmp_path, count, name):
    run = trainer(tmp_path, steps=4, accumulate=2, dropout=0.1, ema=0.9, optimizer=name)
    run = Trainer(run.model, run.objective, replace(run.settings, device="cuda"), run.folder)
    batch, built = run.objective.batch, []

    def watched(first, size):
        built.append((first, count.waits.copy()))
        return batch(first, size)

    run.objective.batch = watched
    size = run.settings.batch
    for step in range(3):
        count.waits.clear()
        built.clear()
        run.step(0.25)
        assert count.waits == ["__float__", "get"]  # the norm, the losses
        first = 2 * step * size
        now = [(first, []), (first + size, [])] if not step else []
        assert built == [*now, (first + 2 * size, []), (first + 3 * size, [])]


def test_a_validation_waits_once(tmp_path, count):
    run = trainer(tmp_path, steps=4)
    wanted = run.evaluate()
    run = Trainer(run.model, run.objective, replace(run.settings, device="cuda"), run.folder)
    count.waits.clear()
    assert run.evaluate() == wanted
    assert count.waits == ["get"]


def test_a_token_that_is_written_waits_once(count):
    reader = Reader(small().to("cuda"))
    reading = reader.begin()
    reader.read([(reading, [1, 2])])
    for id in (3, 4):
        count.waits.clear()
        reader.read([(reading, [id])])
        assert count.waits == ["get"]  # its logits; keys and values stay there
    assert all(isinstance(part, stand_in_cupy.ndarray) for part in reading.cache.buffers[0])


def test_batches_built_ahead_are_those_of_their_number(tmp_path):
    run = trainer(tmp_path, steps=4)
    batches = Batches(2, 2)
    batches.build_next(run.objective, 4)
    other = trainer(tmp_path / "other", steps=4).objective
    for objective, first in ((run.objective, 8), (run.objective, 4), (other, 8)):
        batches.build_next(run.objective, 4)
        found = batches.take(objective, first)
        wanted = [objective.batch(first, 2), objective.batch(first + 2, 2)]
        assert np.array_equal(found, wanted)


def test_values_come_from_the_host_and_go_back(count):
    leaf = Tensor(np.zeros((2, 3), np.float32)).to("cuda")
    leaf.copy_(np.arange(6, dtype=np.float32).reshape(2, 3))
    leaf[1] = np.array([7, 8, 9], np.float32)
    leaf[0, 0] = 5
    assert isinstance(leaf.data, stand_in_cupy.ndarray)
    assert leaf.numpy().tolist() == [[5, 1, 2], [7, 8, 9]]
    model = small()
    there = GPT2(model.config).to("cuda")
    there.load_state_dict(model.state_dict())
    for own, other in zip(there.parameters(), model.parameters()):
        assert np.array_equal(own.numpy(), other.data)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_state_of_an_optimizer_moves_between_devices(optimizer, count):
    make = OPTIMIZERS[optimizer]
    for before, after in (("cpu", "cuda"), ("cuda", "cpu")):
        first, wanted = small().to(before), small()
        old, straight = make(first), make(wanted)
        step(first, old)
        step(wanted, straight)
        second = small().to(after)
        second.load_state_dict(first.to("cpu").state_dict())
        new = make(second)
        new.load_state_dict(old.state_dict())
        step(second, new)
        step(wanted, straight)
        for one, other in zip(second.parameters(), wanted.parameters()):
            assert np.array_equal(one.numpy(), other.data)


def test_a_run_on_the_device_saves_what_goes_on_without_one(tmp_path, count):
    straight = trainer(tmp_path / "straight", steps=4)
    there = trainer(tmp_path / "there", steps=4)
    settings = replace(there.settings, device="cuda")
    there = Trainer(there.model, there.objective, settings, there.folder)
    for run in (straight, there):
        run.step(0.25)
        run.step(0.5)
    assert there.evaluate() == straight.evaluate()
    there.keep_if_best(None)
    saved = states.load_latest(there.save().parent)[0]
    back = trainer(tmp_path / "back", steps=4)
    back.restore(saved)
    assert back.step(0.75) == straight.step(0.75)
    for one, other in zip(back.model.parameters(), straight.model.parameters()):
        assert np.array_equal(one.data, other.data)

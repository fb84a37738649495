"""Training by CUDA graphs: what they compute is what is computed without them, bit for bit."""

import gc
import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import stand_in_cupy
import stand_in_streams
from cuda_device import device, library, needs_device
from minillm import device_memory, kernels
from minillm.arrays import default_generator, to_device, to_numpy
from minillm.models.folder import load_model
from minillm.models.gguf_export import write_gguf
from minillm.models.gpt2 import places_in
from minillm.ops.dropout import MASK_64, dropout
from minillm.training import methods
from minillm.training import state as states
from minillm.training.gradients import Gradients
from minillm.training.staging import Staging
from minillm.training.trainer import Trainer
from small_llama import small as small_llama
from small_runs import arrays_of, minillm, same_bits, trainer
from small_tuning import base, preferences, talks
from test_finetune import flags, quantised, result

pytestmark = needs_device
played = pytest.mark.skipif(
    device is None or device.name != "cuda on host", reason="what plays a GPU is asked"
)


@pytest.fixture(autouse=True)
def engine():
    """Arrays of the GPU, or of what plays one, and its library in use."""
    if device.name != "cuda on host":
        yield
        return
    with stand_in_cupy.installed(library):
        yield


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(graphs, model=None, **options): a Trainer on the GPU."""

    def begin(graphs, model=None, **options):
        monkeypatch.setattr(kernels, "graphs", graphs)
        run = trainer(tmp_path / f"run{len(list(tmp_path.iterdir()))}", **options)
        settings = replace(run.settings, device="cuda")
        return Trainer(model or run.model, run.objective, settings, run.folder)

    return begin


def steps(run, count, first=0):
    """What each step measured; its learning rate is another one each time."""
    return [vars(run.step((first + n) / 8)) for n in range(count)]


OPTIONS = {
    "gpt2": {},
    "dropout": {"dropout": 0.1},
    "accumulated": {"dropout": 0.1, "accumulate": 3, "batch": 2},
    "recomputed": {"dropout": 0.1, "recompute": True, "layers": 2},
    "averaged": {"dropout": 0.1, "ema": 0.9, "optimizer": "muon"},
    "bf16": {"dropout": 0.1, "precision": "bf16"},
    "smoothed": {"label_smoothing": 0.1},
    "fim": {"objective": "fim"},
    "t5": {"objective": "span", "tokenizer": "unigram", "vocab_size": 420, "dropout": 0.1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_graphs_give_the_bits_of_steps_without(start, options):
    wanted, run = start(False, **options), start(True, **options)
    run.model.recompute = wanted.model.recompute = options.get("recompute", False)
    assert steps(run, 5) == steps(wanted, 5)
    assert same_bits(arrays_of(run), arrays_of(wanted))
    assert run.gradients.told() is None
    assert run.gradients.graphs == min(2, options.get("accumulate", 1))


def test_a_llama_trains_by_graphs(start):
    vocabulary = start(False).objective.tokenizer.vocab_size
    models = [small_llama(vocab_size=vocabulary) for _ in range(2)]
    wanted, run = start(False, models[0]), start(True, models[1])
    assert steps(run, 4) == steps(wanted, 4)
    assert same_bits(arrays_of(run), arrays_of(wanted))
    assert run.gradients.graphs == 1


@played
def test_memory_of_graphs_that_are_given_up_is_given_back(start):
    run = start(True)
    steps(run, 4)
    held = stand_in_cupy.machine.held[0]
    run.gradients.turn_off("for this test")
    run.optimizer.zero_grad()  # they lie there
    steps(run, 1)
    gc.collect()
    assert not run.gradients.graphs and stand_in_cupy.machine.held[0] < 0.8 * held


@played
def test_memory_of_graphs_is_given_back_with_the_run(start):
    held = []
    for _ in range(3):
        run = start(True)
        steps(run, 4)
        assert run.gradients.graphs
        del run
        gc.collect()
        held.append(stand_in_cupy.machine.held[0])
    assert held[2] - held[0] < 8192  # of 70 kB that a run holds


def test_a_run_goes_on_with_graphs_or_without(start):
    pytest.importorskip("safetensors", reason="safetensors is not installed: no run is saved")
    wanted = start(False, dropout=0.1, accumulate=2)
    straight = steps(wanted, 6)
    for graphs in (True, False):
        first = start(graphs, dropout=0.1, accumulate=2)
        found = steps(first, 3)
        path = first.save()
        second = start(not graphs, dropout=0.1, accumulate=2)
        second.restore(states.load_latest(path.parent)[0])
        assert found + steps(second, 3, first=3) == straight
        assert same_bits(arrays_of(second), arrays_of(wanted))


def test_a_step_that_is_not_finite_is_skipped_by_graphs_too(start):
    found = []
    for graphs in (False, True):
        run = start(graphs, dropout=0.1)
        rows = steps(run, 3)
        weight = next(iter(run.trained.values()))
        kept = weight.data.copy()
        weight.data[...] = np.inf
        rows += steps(run, 1, first=3)
        assert rows[-1].pop("skipped").startswith("weight ")
        weight.data[...] = kept
        rows += steps(run, 2, first=4)
        found.append(([{k: str(v) for k, v in row.items()} for row in rows], arrays_of(run)))
    assert found[0][0] == found[1][0]
    assert same_bits(found[0][1], found[1][1])


@played
def test_a_step_waits_twice_and_is_one_launch_a_batch(start):
    run, count = start(True, dropout=0.1, accumulate=2), stand_in_cupy.count
    steps(run, 3)
    for first in range(3, 6):
        for noted in (count.waits, count.launches, count.uploads):
            noted.clear()
        steps(run, 1, first=first)
        assert count.waits == ["__float__", "get"]  # the norm, the losses
        assert len(count.launches) == 2
        assert sorted(count.uploads) == ["asarray", "asarray", "set"]  # seeds, the next batches


@pytest.mark.parametrize(
    ("words", "data"),
    [
        ((), talks),
        (("--method", "lora", "--lora-dropout", "0.2"), talks),
        (("--objective", "dpo"), preferences),
        (("--method", "qlora"), talks),
    ],
    ids=["full", "lora", "dpo", "qlora"],
)
def test_tuning_with_batches_of_many_lengths(tmp_path, monkeypatch, words, data):
    pytest.importorskip("safetensors", reason="safetensors is not installed: no run is saved")
    pytest.importorskip("jinja2", reason="jinja2, the extra `serve`, is not installed")
    """Several graphs, some of which others wrote gradients before: accumulated over two batches."""
    monkeypatch.chdir(tmp_path)
    name = quantised(tmp_path / "base.gguf").name if "qlora" in words else "base"
    base(tmp_path / "base")
    data(tmp_path / "data.jsonl")
    launched = []
    for out, on in (("eager", False), ("graphs", True)):
        monkeypatch.setattr(kernels, "graphs", on)
        count = stand_in_cupy.count if device.name == "cuda on host" else None
        command = ("finetune", name, "data.jsonl", "--out", out, "--device", "cuda", *words)
        assert minillm(*command, *flags(**BRIEFLY)) == 0
        launched.append(len(count.launches) if count else on)
    assert result(tmp_path / "eager") == result(tmp_path / "graphs")
    assert launched[1] and not launched[0]


BRIEFLY = {
    "steps": 5, "batch": 1, "eval_every": 5, "save_every": 5, "sample_tokens": 0, "context": 40
}  # fmt: skip


def look_at_a_value(loss, model, batch):
    return loss(model, batch) if int(batch[0].max()) >= 0 else None


def skip_rows(loss, model, batch):
    rows = batch[0][:, 0] >= 0
    return loss(model, (batch[0][rows], batch[1][rows]))


def draw(loss, model, batch):
    return loss(model, batch) * (1 + default_generator.random())


def derive_ids(loss, model, batch):
    return loss(model, ((batch[0] + 1) % 3, batch[1]))


def derive_targets(loss, model, batch):
    return loss(model, (batch[0], (batch[1] + 1) % 3))


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (look_at_a_value, "cudaErrorStreamCaptureUnsupported"),
        (skip_rows, "cudaErrorStreamCaptureUnsupported"),
        (draw, "no CUDA graphs: the model draws other random numbers than dropout's seeds"),
        (derive_ids, "cudaErrorStreamCaptureUnsupported"),
        (derive_targets, "cudaErrorStreamCaptureUnsupported"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@played
def test_what_would_be_baked_in_is_not_captured(start, loss, told):
    runs = []
    for graphs in (False, True):
        run = start(graphs, dropout=0.1)
        original = run.objective.loss
        run.objective.loss = lambda model, batch, original=original: loss(original, model, batch)
        runs.append(run)
    assert steps(runs[1], 4) == steps(runs[0], 4)
    assert same_bits(arrays_of(runs[1]), arrays_of(runs[0]))
    assert told in runs[1].gradients.told() and runs[1].gradients.told() is None
    assert not runs[1].gradients.graphs


@played
def test_an_objective_that_needs_the_host_is_computed_step_by_step(start):
    masked = {"objective": "mlm", "tokenizer": "wordpiece", "vocab_size": 420}
    wanted, run = start(False, **masked), start(True, **masked)
    assert steps(run, 3) == steps(wanted, 3)
    assert same_bits(arrays_of(run), arrays_of(wanted))
    assert run.gradients.told().startswith("no CUDA graphs: ")


def test_a_loss_that_uses_a_number_of_the_batch_is_not_captured(start):
    runs = [start(graphs) for graphs in (False, True)]
    for run in runs:
        loss, build, tokens = run.objective.loss, run.objective.batch, run.objective.tokens
        run.objective.batch = lambda first, size, b=build: (*b(first, size), 1.0 + first)
        run.objective.tokens = lambda batch, t=tokens: t(batch[:2])
        run.objective.loss = lambda model, batch, f=loss: f(model, batch[:2]) * batch[2]
    assert steps(runs[1], 3) == steps(runs[0], 3)
    told = runs[1].gradients.told()
    assert told == "no CUDA graphs: its loss looks at a number of the batch"


def test_ids_of_every_batch_are_checked(start):
    run = start(True)
    steps(run, 3)
    ids = run.objective.batch(0, run.settings.batch)[0].copy()
    ids[1, 2] = run.model.config.vocab_size
    run.objective.batch = lambda first, size: (ids, np.zeros_like(ids))
    run.objective.targets = lambda batch: batch[1].size
    run._batches.take(run.objective, 0)  # those that were built before
    with pytest.raises(IndexError, match=f"embedding: id {ids[1, 2]}, 0 <= id < {ids[1, 2]}"):
        run.step(0.5)


def test_memory_beside_graphs_makes_them_give_way(start, monkeypatch):
    """Where a validation finds none; a second time it is an error."""
    run = start(True)
    steps(run, 3)
    assert run.gradients.graphs
    wanted, evaluate = run.evaluate(), run.objective.evaluate

    def hungry(model, limit):
        if run.gradients.graphs:
            raise MemoryError("Out of memory allocating 8 bytes")
        return evaluate(model, limit)

    run.objective.evaluate = hungry
    assert run.evaluate() == wanted
    assert run.gradients.told() == "no CUDA graphs: there is not memory enough for them"
    eager = start(False)
    assert steps(run, 3, first=3) == steps(eager, 6)[3:]
    run.objective.evaluate = lambda model, limit: (_ for _ in ()).throw(MemoryError("full"))
    with pytest.raises(MemoryError, match="full"):
        run.evaluate()


@played
@pytest.mark.parametrize("status", [2, 700])
def test_a_graph_that_finds_no_memory_gives_way(start, monkeypatch, status):
    """Its scratch memory is taken when it is launched."""
    wanted, run = start(False, accumulate=2), start(True, accumulate=2)
    steps(run, 3)

    def refused(self, stream=None):
        if len(stand_in_streams.launches) % 2:  # the second of a step
            raise stand_in_streams.CUDARuntimeError(status, "cudaErrorOf: CUDA")
        launch(self, stream)

    launch = stand_in_streams.Graph.launch
    monkeypatch.setattr(stand_in_streams.Graph, "launch", refused)
    stand_in_streams.launches.clear()
    if status != 2:
        with pytest.raises(RuntimeError, match="cudaErrorOf"):
            steps(run, 1, first=3)
        return
    rows = steps(run, 1, first=3)
    assert run.gradients.told() == "no CUDA graphs: there is not memory enough for them"
    assert rows + steps(run, 2, first=4) == steps(wanted, 6)[3:]


def test_batches_that_find_no_memory_beside_graphs_are_sent_without(start, monkeypatch):
    wanted, run = start(False), start(True)
    steps(run, 3)
    send = Staging.send

    def hungry(self, batches):
        if run.gradients.graphs:
            raise MemoryError("Out of memory allocating 8 bytes")
        send(self, batches)

    monkeypatch.setattr(Staging, "send", hungry)
    assert steps(run, 3, first=3) == steps(wanted, 6)[3:]
    assert run.gradients.told() == "no CUDA graphs: there is not memory enough for them"


@pytest.mark.parametrize("name", ["_update", "_norm"])
def test_an_update_that_finds_no_memory_beside_graphs_is_rehearsed_without(start, name):
    run = start(True, optimizer="muon")
    original = getattr(run, name)

    def hungry(*arguments):
        if run.gradients.graphs:
            raise MemoryError("Out of memory allocating 8 bytes")
        return original(*arguments)

    setattr(run, name, hungry)
    before = arrays_of(run)
    run.rehearse()
    assert run.gradients.told() == "no CUDA graphs: there is not memory enough for them"
    assert same_bits(arrays_of(run), before) and run.optimizer.steps == 0


@played
def test_graphs_count_in_the_pool_and_give_its_memory_back(start):
    run, machine = start(True, accumulate=2), stand_in_cupy.machine
    eager = start(False, accumulate=2)
    steps(eager, 2)
    steps(run, 1)
    before = machine.held[0]
    steps(run, 3, first=1)
    assert run.gradients.graphs == 2 and machine.held[0] > before + run.model.nbytes
    run.gradients.forget()
    assert machine.held[0] == before
    steps(run, 3, first=4)  # and captures them anew
    assert run.gradients.graphs == 2


@played
def test_copies_come_when_they_are_waited_for(monkeypatch):
    cupy = device.xp
    staging = Staging(cupy)
    rows = [[(np.full(5, n), np.full((2, 3), n, np.float32))] for n in range(4)]
    staging.send(rows[0])
    used = []
    for now, then in pairwise(rows):
        (part,) = staging.take(now)
        staging.used()
        used.append(staging._slots[0].used)
        staging.send(then)
        if len(used) > 1:  # the step before the last has read what is written over
            assert used[-2] in staging.copying.waited and used[-1] not in staging.copying.waited
        for array, wanted in zip(part.arrays, now[0]):
            assert array.dtype == wanted.dtype and np.array_equal(to_numpy(array), wanted)
    waits = stand_in_cupy.count.waits
    assert set(waits) <= {"get"}
    staging.send(rows[0])  # one that was never taken: what was not copied yet is not written over
    staging.send(rows[1])
    assert waits[-1] == "an event"


def test_batches_of_two_lengths_leave_gradients_in_one_place(start):
    """Four graphs: each length as the first batch of a step, and added to the other one."""
    runs = [start(graphs, dropout=0.1, accumulate=2, batch=2) for graphs in (False, True)]
    for run in runs:

        def cut(first, size, build=run.objective.batch):
            width = 16 if (first // size) % 4 in (0, 3) else 12
            return tuple(part[:, :width].copy() for part in build(first, size))

        run.objective.batch = cut
    assert steps(runs[1], 8) == steps(runs[0], 8)
    assert same_bits(arrays_of(runs[1]), arrays_of(runs[0]))
    assert runs[1].gradients.graphs == 4 and runs[1].gradients.told() is None


@played
def test_pinned_memory_that_is_not_there_is_a_lack_of_memory(monkeypatch):
    def none(size):
        raise stand_in_streams.CUDARuntimeError(2, "cudaErrorMemoryAllocation: out of memory")

    staging = Staging(device.xp)
    monkeypatch.setattr(device.xp.cuda, "alloc_pinned_memory", none)
    with pytest.raises(MemoryError, match="no 64 bytes of pinned memory for batches: cudaError"):
        staging.send([(np.zeros(3),)])


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


@played
def test_cupy_alone_computes_step_by_step_and_says_why(start):
    with kernels.use("reference"):
        wanted, run = start(False), start(True)
        assert steps(run, 3) == steps(wanted, 3)
    assert run.gradients.told() == (
        "no CUDA graphs: calling cuBLAS API during stream capture is currently unsupported"
    )
    assert not stand_in_streams.launches


def test_weights_that_were_moved_are_captured_anew(start):
    runs = [start(graphs, dropout=0.1) for graphs in (False, True)]
    for run in runs:
        steps(run, 3)
        for weight in run.trained.values():
            weight.data = weight.data * 2
    assert steps(runs[1], 4, first=3) == steps(runs[0], 4, first=3)
    assert same_bits(arrays_of(runs[1]), arrays_of(runs[0]))
    assert runs[1].gradients.graphs == 1


def test_weights_that_are_not_trained_may_move_too(start):
    runs = [start(graphs) for graphs in (False, True)]
    for n, run in enumerate(runs):
        run.model.wpe.weight.requires_grad_(False)
        runs[n] = run = Trainer(run.model, run.objective, run.settings, run.folder)
        steps(run, 3)
        run.model.wpe.weight.data = run.model.wpe.weight.data * 2
    assert steps(runs[1], 4, first=3) == steps(runs[0], 4, first=3)
    assert same_bits(arrays_of(runs[1]), arrays_of(runs[0]))
    assert runs[1].gradients.graphs == 1


def test_blocks_that_are_opened_are_read_no_more(start, tmp_path):
    """Their memory is another array's by then."""
    model = small_llama(vocab_size=start(False).objective.tokenizer.vocab_size)
    write_gguf(tmp_path / "q.gguf", model, None, "q8_0")
    runs = []
    for graphs in (False, True):
        model = load_model(tmp_path / "q.gguf")
        for name, weight in model.named_parameters():
            weight.requires_grad_("norm" in name)
        run = start(graphs, model, optimizer="adamw")
        assert methods.blocks_held(run.model)
        steps(run, 3)
        assert run.gradients.graphs == graphs
        methods.widen(run.model)
        runs.append(run)
    assert steps(runs[1], 1, first=3) == steps(runs[0], 1, first=3)
    assert not runs[1].gradients.graphs
    assert steps(runs[1], 2, first=4) == steps(runs[0], 2, first=4)
    assert same_bits(arrays_of(runs[1]), arrays_of(runs[0]))


def test_what_is_frozen_while_training_stays(start):
    runs, found = [start(graphs) for graphs in (False, True)], []
    for run in runs:
        steps(run, 3)
        run.model.wpe.weight.requires_grad_(False)
        before = to_numpy(run.model.wpe.weight.data)
        rows = steps(run, 3, first=3)
        assert to_numpy(run.model.wpe.weight.data).tobytes() == before.tobytes()
        run.model.wpe.weight.requires_grad_(True)
        found.append(rows + steps(run, 2, first=6))
    assert found[1] == found[0]
    assert same_bits(arrays_of(runs[1]), arrays_of(runs[0]))
    assert runs[1].gradients.graphs == 2


def test_a_trainer_leaves_no_memory_for_the_collector(start):
    run = start(True, dropout=0.1)
    steps(run, 3)
    gone = weakref.ref(run.gradients)
    gc.collect()
    gc.disable()
    try:
        del run
        assert gone() is None
    finally:
        gc.enable()


@played
def test_what_follows_a_graph_uses_its_memory(start):
    """Norm, Muon's update and a validation: no more is taken than a few numbers."""
    run, machine = start(True, optimizer="muon", batch=8), stand_in_cupy.machine
    steps(run, 3)
    run.evaluate()
    machine.pooled[0] = before = machine.held[0]
    steps(run, 2, first=3)
    run.evaluate()
    assert run.gradients.graphs == 1
    assert machine.pooled[0] - before < 4_000 < run.model.nbytes


@played
def test_what_is_kept_in_the_memory_of_graphs_ends_them(start):
    wanted, run = start(False), start(True)
    steps(run, 3)
    update, kept = run._update, []

    def keeping(*arguments):
        update(*arguments)
        kept.append(to_device(np.zeros(5), "cuda"))

    run._update = keeping
    rows = steps(run, 1, first=3)
    assert run.gradients.told() == "no CUDA graphs: something is kept in their memory"
    assert rows + steps(run, 2, first=4) == steps(wanted, 6)[3:]


@played
def test_what_follows_a_graph_has_what_kernels_only_keep(start):
    run, machine = start(True), stand_in_cupy.machine
    steps(run, 3)
    device_memory.release("cuda")
    of_graphs = library.runtime.scratch_bytes()[1]
    run.evaluate()
    scratch = library.runtime.scratch_bytes()[1]
    kept = scratch - of_graphs
    assert kept > 1000
    device_memory.limit("cuda", machine.held[0] + scratch + 100)
    try:
        with run.gradients.lending():
            free = run.gradients._pool.total_bytes() - run.gradients._pool.used_bytes()
            array = device.xp.zeros(free + kept, np.uint8)
            assert library.runtime.scratch_bytes()[1] == of_graphs
            del array
        assert run.gradients.graphs == 1 and run.gradients.told() is None
    finally:
        device_memory.limit("cuda", 0)


@played
def test_kernels_that_would_not_be_captured_are_noticed(start, monkeypatch):
    def unnamed(self):
        return dict(self._array.__array_interface__)

    monkeypatch.setattr(stand_in_cupy.ndarray, "__cuda_array_interface__", property(unnamed))
    wanted, run = start(False), start(True)
    assert steps(run, 3) == steps(wanted, 3)
    assert "CUPY_CUDA_ARRAY_INTERFACE_EXPORT_VERSION=3" in run.gradients.told()


def test_documents_side_by_side_are_captured(start):
    """Where they end is another place in each batch."""
    runs = [start(on, tokenizer="byte", document_mask=True, dropout=0.1) for on in (False, True)]
    for run in runs:

        def ended(first, size, build=run.objective.batch, end=run.objective.border):
            ids, targets = (part.copy() for part in build(first, size))
            ids[np.arange(size), (first + 5 * np.arange(size)) % 16] = end
            ids[:, first % 13] = end
            return ids, targets

        run.objective.batch = ended
    assert steps(runs[1], 4) == steps(runs[0], 4)
    assert same_bits(arrays_of(runs[1]), arrays_of(runs[0]))
    assert runs[1].gradients.graphs == 1


def test_places_in_documents_are_those_of_the_host():
    documents = np.random.default_rng(0).integers(0, 2, (5, 17)).cumsum(axis=1)
    found = places_in(to_device(documents, "cuda"))
    assert to_numpy(found).tolist() == places_in(documents).tolist()


@played
def test_two_gpus_are_trained_on_in_turn(start):
    wanted = steps(start(False, dropout=0.1), 4)
    first = start(True, dropout=0.1)
    other = Trainer(
        start(True, dropout=0.1).model,
        first.objective,
        replace(first.settings, device="cuda:1"),
        first.folder,
    )
    for n in range(4):
        other._batches.take(other.objective, 0)  # built and sent in the step itself
        assert steps(first, 1, first=n) == steps(other, 1, first=n) == wanted[n : n + 1]
    assert first.gradients.graphs == other.gradients.graphs == 1
    assert min(stand_in_cupy.machine.held) > first.model.nbytes


@played
def test_graphs_are_waited_for_on_their_gpu_where_another_is_current(start, monkeypatch):
    run, cuda, waited = start(True), device.xp.cuda, []
    steps(run, 3)
    assert run.gradients.graphs
    cuda.Device(1).use()
    number = cuda.runtime.getDevice
    monkeypatch.setattr(
        stand_in_streams.Stream, "synchronize", lambda self: waited.append(number())
    )
    run.gradients.forget()
    assert waited == [0] and number() == 1


def test_few_graphs_are_kept(start, monkeypatch):
    monkeypatch.setattr("minillm.training.gradients.KEPT", 1)
    wanted, run = start(False, accumulate=2), start(True, accumulate=2)
    assert isinstance(run.gradients, Gradients)
    assert steps(run, 5) == steps(wanted, 5)
    assert run.gradients.graphs == 1

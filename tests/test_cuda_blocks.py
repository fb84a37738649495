"""Weights that stay the blocks of a file on a GPU."""

import sys

import numpy as np
import pytest

import small_llama
import stand_in_cupy
from cuda_device import library, needs_device
from minillm import kernels, nn, no_grad
from minillm.arrays import is_gpu_array, new_generator, to_device
from minillm.blocks import KINDS, decode_rows
from minillm.formats.deferred import Blocks
from minillm.generation import Reader
from minillm.models.folder import load_model
from minillm.models.gguf_export import write_gguf
from minillm.models.lora import Lora, attach
from minillm.ops.block_linear import random_blocks
from minillm.optim import AdamW, decay_groups
from minillm.tensor import Tensor
from minillm.testing import DRAWS, EPS, Draw, budget, perturbed
from small_gpt2 import small
from test_cuda_training import engine

pytestmark = needs_device
__all__ = ["engine"]
KIND = "Q4_1"
MODELS = {
    "gpt2": lambda: small(n_embd=64, n_head=4, n_positions=60),
    "llama": lambda: small_llama.small(
        "llama", hidden_size=64, intermediate_size=96, max_position_embeddings=60
    ),
}


def blocks_source(rows=6, width=64):
    raw = random_blocks(Draw(0), KIND, rows, width)
    return Blocks(raw.reshape(-1), KIND, (rows, width))


def layer_on_gpu(source):
    layer = nn.skip_init(nn.Linear, source.shape[1], source.shape[0], bias=False)
    layer.weight.defer(source)
    return layer.to("cuda")


def rows(*shape):
    return new_generator(1).standard_normal(shape).astype(np.float32)


def deferred(model):
    return [p for p in model.parameters() if isinstance(p, nn.DeferredParameter)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["q4_1", "q8_0"])
def test_a_model_computes_from_its_blocks(name, kind, tmp_path):
    path = tmp_path / "a.gguf"
    write_gguf(path, MODELS[name](), None, kind)
    host = load_model(path)
    ids = new_generator(0).integers(0, host.config.vocab_size, 50).tolist()
    with kernels.use("reference"), no_grad():
        wanted = host(np.array([ids])).numpy()[0]
        loss = host.loss(np.array([ids[:-1]]), np.array([ids[1:]])).item()
    model = load_model(path, device="cuda")
    held = deferred(model)
    assert held and {p.device for p in model.parameters()} == {"cuda:0"} == {model.device}
    assert model.nbytes < host.nbytes / 2  # whom the reference has widened
    with no_grad():
        np.testing.assert_allclose(model(np.array([ids])).numpy()[0], wanted, atol=1e-4)
        found = model.loss(np.array([ids[:-1]]), np.array([ids[1:]])).item()
        assert abs(found - loss) <= 1e-4
    reader = Reader(model)
    assert reader.compiled
    reading, start = reader.begin(), 0
    for size in (40, 1, 1, 8):
        part = ids[start : start + size]
        (got,) = reader.read([(reading, part)], every=True)
        np.testing.assert_allclose(got, wanted[start : start + size], atol=1e-4)
        start += size
    assert deferred(model) == held


def test_blocks_lie_on_the_gpu_until_the_model_comes_back():
    source = blocks_source()
    layer = layer_on_gpu(source)
    found = layer.weight.held
    assert found.kind == KIND and is_gpu_array(found.raw)
    assert layer.to("cuda").weight.held.raw is found.raw  # as it is there already
    layer.to("cpu")
    assert layer.weight.device == "cpu" and np.shares_memory(layer.weight.held.raw, source.raw)
    layer.to("cuda")
    assert layer.weight.device == "cuda:0" and layer.weight.numpy().tobytes() == (
        decode_rows(KIND, source.raw.reshape(6, -1)).tobytes()
    )
    assert type(layer.weight) is nn.Parameter and layer.weight.device == "cuda:0"  # widened


def test_a_table_gives_the_rows_asked_for():
    table = nn.skip_init(nn.Embedding, 6, 64)
    source = blocks_source()
    table.weight.defer(source)
    table.to("cuda")
    with no_grad():
        got = table(np.array([[3, 0], [5, 3]]))
    assert got.device == "cuda:0" and isinstance(table.weight, nn.DeferredParameter)
    assert np.array_equal(got.numpy(), source.decode()[[[3, 0], [5, 3]]])


@pytest.mark.parametrize("provider", ["auto", "reference"])
@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_trained_is_widened_and_nothing_else(frozen, provider):
    source = blocks_source()
    layer = layer_on_gpu(source)
    layer.weight.requires_grad = not frozen
    x = Tensor(to_device(rows(2, 64), "cuda"), requires_grad=True)
    with kernels.use(provider):
        layer(x).sum().backward()
    assert isinstance(layer.weight, nn.DeferredParameter) == frozen
    assert layer.weight.device == "cuda:0"
    wanted = np.tile(source.decode().sum(axis=0), (2, 1))
    np.testing.assert_allclose(x.grad.numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert (layer.weight.grad is None) == frozen


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_opened_as_the_definition_opens_them(kind):
    width = 256 if KINDS[kind].elements > 1 else 131
    raw, ids = random_blocks(Draw(0), kind, 9, width), np.array([[8, 0, 3], [3, 3, 7]])
    there, found = to_device(raw, "cuda"), []
    for wanted in (None, to_device(ids.reshape(-1), "cuda")):
        out = to_device(np.zeros((9 if wanted is None else 6, width), np.float32), "cuda")
        library.block_embedding_forward(KINDS[kind].id, there, wanted, out)
        found.append(out.get())
    wanted = decode_rows(kind, raw)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-6, atol=1e-6)
    assert found[1].tobytes() == found[0][ids.reshape(-1)].tobytes()


def test_an_id_that_no_check_has_seen_gives_no_numbers():
    raw = to_device(random_blocks(Draw(0), "Q8_0", 3, 32), "cuda")
    out = to_device(np.zeros((4, 32), np.float32), "cuda")
    ids = to_device(np.array([3, 2, -1, 1 << 40]), "cuda")
    library.block_embedding_forward(KINDS["Q8_0"].id, raw, ids, out)
    assert np.isnan(out.get()).all(axis=1).tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match=r"3 rows of blocks, 4 of out; without ids as many are"):
        library.block_embedding_forward(KINDS["Q8_0"].id, raw, None, out)


def tuned(path, place, draw=None, steps=3):
    """Losses of steps on adapters beside a model of blocks; `draw` moves all numbers a little."""
    model = load_model(path)
    attach(model, Lora(rank=4), seed=1)
    if draw is not None:
        with no_grad():
            for parameter in model.parameters():
                (near,) = perturbed([parameter.data], draw, EPS["float32"])
                parameter.copy_(near.astype(np.float32))
    model.to(place)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, found = AdamW(decay_groups(trained, 0.1), lr=1e-2), []
    ids = new_generator(0).integers(0, model.config.vocab_size, (2, 41))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return np.array(found), model


@pytest.mark.parametrize("provider", ["auto", "reference"])
@pytest.mark.parametrize("name", MODELS)
def test_adapters_learn_beside_blocks_as_on_the_cpu(name, provider, tmp_path):
    path = tmp_path / "a.gguf"
    write_gguf(path, MODELS[name](), None, "q8_0")
    with kernels.use("reference"):
        wanted, host = tuned(path, "cpu")
        unit = np.zeros(len(wanted))
        for seed in range(DRAWS):
            unit = np.maximum(unit, abs(tuned(path, "cpu", new_generator(seed))[0] - wanted))
    with kernels.use(provider):
        found, model = tuned(path, "cuda")
    assert deferred(model) and model.nbytes < host.nbytes / 2  # whom the reference has widened
    assert (abs(found - wanted) <= budget([], []) * unit).all(), (found, wanted, unit)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("provider", ["auto", "reference"])
def test_the_loss_of_a_head_in_blocks_is_that_of_the_host(reduction, provider, monkeypatch):
    monkeypatch.setattr("minillm.nn.loss.GPU_LOGITS", 6 * 4)  # four rows at a time
    source, x, targets = blocks_source(), rows(3, 5, 64), new_generator(0).integers(0, 6, (3, 5))
    targets[[0, 2], [1, 4]] = -100
    found = []
    for place in ("cpu", "cuda"):
        head = layer_on_gpu(source).to(place).weight
        head.requires_grad = False
        features = Tensor(to_device(x, place), requires_grad=True)
        with kernels.use(provider if place == "cuda" else "reference"):
            if place == "cuda":
                stand_in_cupy.count.waits.clear()
            loss = nn.linear_cross_entropy(features, head, targets, reduction, 0.1)
            loss.sum().backward()
            if place == "cuda":
                assert not stand_in_cupy.count.waits and isinstance(head, nn.DeferredParameter)
        found.append((loss.numpy(), features.grad.numpy()))
    for host, gpu in zip(*found):
        np.testing.assert_allclose(gpu, host, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="all 15 targets are ignored"):
        nn.linear_cross_entropy(features, head, np.full((3, 5), -100), "mean")


@pytest.mark.parametrize("provider", ["auto", "reference"])
def test_a_frozen_layer_of_float32_takes_no_gradient(provider):
    layer = nn.Linear(8, 6, generator=new_generator(2)).to("cuda")
    layer.weight.requires_grad = layer.bias.requires_grad = False
    x = Tensor(rows(40, 8), requires_grad=True).to("cuda")
    with kernels.use(provider):
        layer(x).sum().backward()
    assert layer.weight.grad is None


def test_large_weights_are_opened_part_by_part(monkeypatch):
    """Never all numbers of a weight at once: those of the forward pass are counted as well."""
    monkeypatch.setattr("minillm.blocks.GPU_CHUNK", 1 << 12)
    monkeypatch.setattr(sys.modules["minillm.ops.block_linear"], "DECODED", 1 << 12)
    source, asked, real = blocks_source(300, 64), [], library.block_embedding_forward

    def block_embedding_forward(kind, blocks, ids, out):
        asked.append(out.shape)
        real(kind, blocks, ids, out)

    monkeypatch.setattr(library, "block_embedding_forward", block_embedding_forward)
    layer = layer_on_gpu(source)
    layer.weight.requires_grad = False
    x, upstream = rows(40, 64), rows(40, 300)
    there = Tensor(to_device(x, "cuda"), requires_grad=True)
    layer(there).backward(to_device(upstream, "cuda"))
    np.testing.assert_allclose(there.grad.numpy(), upstream @ source.decode(), rtol=1e-4, atol=1e-4)
    assert asked == [(64, 64)] * 4 + [(44, 64)]


def test_gradients_are_added_by_the_kernels_to_what_those_of_the_host_are(monkeypatch):
    real, asked = library.linear_backward, []

    def linear_backward(*given):
        asked.append(given[-1])
        real(*given)

    monkeypatch.setattr(library, "linear_backward", linear_backward)
    x, upstream, found = rows(40, 8), rows(40, 6), []
    for place in ("cpu", "cuda"):
        layer = nn.Linear(8, 6, generator=new_generator(2)).to(place)
        with kernels.use("auto" if place == "cuda" else "reference"):
            for _ in range(3):
                layer(Tensor(x).to(place)).backward(upstream)
        found.append([p.grad.numpy() for p in layer.parameters()])
    assert [add[1:] for add in asked] == [[False, False], [True, True], [True, True]]
    for host, gpu in zip(*found):
        np.testing.assert_allclose(gpu, host, rtol=1e-5, atol=1e-5)

"""Weights that stay the blocks of a file on a GPU."""

import numpy as np
import pytest

import small_llama
from cuda_device import library, needs_device
from minillm import kernels, nn, no_grad
from minillm.arrays import is_gpu_array, new_generator, to_device
from minillm.blocks import decode_rows
from minillm.formats.deferred import Blocks
from minillm.generation import Reader
from minillm.models.folder import load_model
from minillm.models.gguf_export import write_gguf
from minillm.ops.block_linear import random_blocks
from minillm.tensor import Tensor
from minillm.testing import Draw
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


@pytest.mark.parametrize("frozen", [True, False])
def test_training_widens(frozen):
    source = blocks_source()
    layer = layer_on_gpu(source)
    layer.weight.requires_grad = not frozen
    x = Tensor(to_device(rows(2, 64), "cuda"), requires_grad=True)
    layer(x).sum().backward()
    assert type(layer.weight) is nn.Parameter and layer.weight.device == "cuda:0"
    wanted = np.tile(source.decode().sum(axis=0), (2, 1))
    np.testing.assert_allclose(x.grad.numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert (layer.weight.grad is None) == frozen


def test_the_reference_widens_on_the_gpu():
    source = blocks_source()
    layer, x = layer_on_gpu(source), rows(2, 64)
    with kernels.use("reference"), no_grad():
        out = layer(Tensor(to_device(x, "cuda")))
    assert type(layer.weight) is nn.Parameter and layer.weight.device == "cuda:0"
    np.testing.assert_allclose(out.numpy(), x @ source.decode().T, rtol=1e-4, atol=1e-4)


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

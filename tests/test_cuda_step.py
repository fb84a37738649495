"""The token step on a GPU gives what the model gives operation by operation on the CPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import small_gpt2
import small_llama
import stand_in_cupy
from cuda_device import device, library, needs_device
from minillm import kernels, no_grad
from minillm.arrays import new_generator
from minillm.generation import Reader
from test_cuda_training import engine

pytestmark = needs_device
__all__ = ["engine"]
CASES = {
    "gpt2": lambda: small_gpt2.small(n_positions=120),
    "exact gelu": lambda: small_gpt2.small(n_positions=120, activation_function="gelu"),
    "llama": lambda: small_llama.small("llama", max_position_embeddings=120),
    "mistral": lambda: small_llama.small("mistral", max_position_embeddings=120),  # with a window
}


def text(model, length, seed=0):
    return new_generator(seed).integers(0, model.config.vocab_size, length).tolist()


def whole(model, ids):
    with kernels.use("reference"), no_grad():
        return model(np.array([ids])).numpy()[0]


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_references(case):
    model = CASES[case]()
    ids = text(model, 60)
    expected = whole(model, ids)
    reader = Reader(model.to("cuda"))
    assert reader.compiled
    for seed, pieces in enumerate(([60], [1] * 6 + [54], [33, 5, 1, 1, 20])):
        if device.name == "cuda on host":
            library.runtime.set_order(seed)
        reading, start = reader.begin(), 0
        for size in pieces:
            (got,) = reader.read([(reading, ids[start : start + size])], every=True)
            np.testing.assert_allclose(got, expected[start : start + size], atol=1e-4)
            start += size
    (last,) = reader.read([(reader.begin(), ids)])
    np.testing.assert_allclose(last, expected[-1], atol=1e-4)


@pytest.mark.parametrize("case", ["gpt2", "mistral"])
def test_texts_are_read_together(case):
    model = CASES[case]()
    texts = [text(model, length, length) for length in (3, 17, 9)]
    expected = [whole(model, ids)[-1] for ids in texts]
    reader = Reader(model.to("cuda"))
    readings = [reader.begin() for _ in texts]
    reader.read([(reading, ids[:-1]) for reading, ids in zip(readings, texts)])
    got = reader.read([(reading, ids[-1:]) for reading, ids in zip(readings, texts)])
    for one, other in zip(got, expected):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_without_the_library_for_the_cpu_texts_are_read_together_too(monkeypatch):
    monkeypatch.setattr(kernels, "MANY_ROWS", kernels.many_rows(None, library))
    model = CASES["gpt2"]()
    texts = [text(model, length, length) for length in (20, 17)]
    expected = [whole(model, ids)[-1] for ids in texts]
    reader = Reader(model.to("cuda"))
    got = reader.read([(reader.begin(), ids) for ids in texts])
    for one, other in zip(got, expected):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_token_is_waited_for_once():
    if device.name != "cuda on host":
        pytest.skip("a GPU does not count who waits for it")
    reader = Reader(CASES["gpt2"]().to("cuda"))
    reading = reader.begin()
    reader.read([(reading, [1, 2, 3])])
    stand_in_cupy.count.waits.clear()
    reader.read([(reading, [4])])
    assert stand_in_cupy.count.waits == ["get"]  # the logits


def test_texts_lie_on_the_gpu_of_their_model_in_every_thread():
    """A thread begins with the first GPU as its current one."""
    if device.name != "cuda on host":
        pytest.skip("a machine with two GPUs is needed")
    reader = Reader(CASES["gpt2"]().to("cuda:1"))
    arrays, results = [], []

    def read():
        stand_in_cupy.module().cuda.Device(0).use()
        reading = reader.begin()
        results.append(reader.read([(reading, [1, 2, 3])])[0])
        stand_in_cupy.module().cuda.Device(0).use()  # as another model does
        twin = reading.fork()
        results.append(reader.read([(twin, [4])])[0])
        arrays.extend(array for one in (reading, twin) for kv in one.cache.buffers for array in kv)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(read).result()
    assert {array.device.id for array in arrays} == {1}
    expected = whole(reader.model.to("cpu"), [1, 2, 3, 4])
    np.testing.assert_allclose(results, expected[2:], atol=1e-4)

"""SmolLM2-135M-Instruct in four bits, a Llama that others trained, where it is installed."""

import subprocess
import sys

import numpy as np
import pytest

from minillm import generate, kernels, load, no_grad
from minillm.formats import gguf
from minillm.models.gguf_names import open_gguf
from real_models import smollm2

PROMPT = "The capital of France is"
IDS = [504, 3575, 282, 4649, 314]
TOP = {7042: 17.3713, 260: 14.8886, 4528: 13.2450, 2250: 13.0095, 1315: 12.9515}  # transformers'
MEASURED = """
import re, sys, time
from minillm import load
begin = time.perf_counter()
model, tokenizer = load(sys.argv[1])
seconds = time.perf_counter() - begin
status = open("/proc/self/status", encoding="utf-8").read()
print(seconds, 1024 * int(re.search("VmHWM: *([0-9]+) kB", status.replace("\\t", " "))[1]))
"""


@pytest.fixture(scope="module")
def path():
    return smollm2()


@pytest.fixture(scope="module")
def opened(path):
    return load(path)


def test_logits_are_those_of_transformers(path):
    """By the reference path: kernels round activations to 16 bits (see test_block_linear)."""
    model, tokenizer = load(path)
    assert tokenizer.encode(PROMPT) == IDS
    with kernels.use("reference"), no_grad():
        logits = model(np.array([IDS])).numpy()[0, -1]
    best = np.argsort(-logits)[:5]
    assert best.tolist() == list(TOP)
    np.testing.assert_allclose(logits[best], list(TOP.values()), atol=1e-4)


def test_it_goes_on_as_it_should(opened):
    assert generate(*opened, PROMPT, max_tokens=2, temperature=0) == " Paris."


def test_the_file_holds_what_it_is_known_to_hold(path):
    content, tensors, metadata = open_gguf(path)
    assert sum(tensor.size for tensor in tensors.values()) == 134_515_008
    kinds = [tensor.kind for tensor in tensors.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"Q8_0": 1, "F32": 61, "Q4_1": 210}
    assert content["tie_word_embeddings"] and content["rope_theta"] == 100000
    assert (content["rms_norm_eps"], content["max_position_embeddings"]) == (1e-5, 8192)
    assert len(metadata["tokenizer.ggml.merges"]) == 48_900
    assert gguf.read(path)[0]["general.architecture"] == "llama"


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as on Linux")
def test_loading_is_quick_and_takes_no_more_than_the_file(path):
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True
        )
        runs.append([float(word) for word in done.stdout.split()])
    assert min(seconds for seconds, _ in runs) < 1
    assert max(peak for _, peak in runs) < path.stat().st_size + 64e6

"""The whole engine on the kernels for the GPU: training and generation."""

import numpy as np
import pytest

import stand_in_cupy
from cuda_device import device, library, needs_device
from minillm import kernels, no_grad, testing
from minillm.arrays import new_generator
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
from minillm.training import metrics
from small_gpt2 import IDS, TARGETS, small
from small_llama import small as small_llama
from small_runs import CLOCKED, flags, minillm, story
from test_equality import FAMILIES, LONG, SAMPLED, SHORT, written

pytestmark = needs_device
MODELS = {"gpt2": small, "llama": small_llama}
RULES = {
    "adamw": lambda model: AdamW(decay_groups(model.parameters(), 0.1), lr=1e-2),
    "adamw8bit": lambda model: AdamW8bit(decay_groups(model.parameters(), 0.1), lr=1e-2),
    "muon": lambda model: Muon(muon_groups(model, 0.1), lr=1e-2),
    "sgd": lambda model: SGD(model.parameters(), lr=1e-2, momentum=0.9),
}
CASES = [("gpt2", rule) for rule in RULES] + [("llama", "adamw")]
each_case = pytest.mark.parametrize(("make", "rule"), CASES)


@pytest.fixture(autouse=True)
def engine():
    """Arrays of the GPU, or of what plays one, and its library in use."""
    if device.name != "cuda on host":
        yield
        return
    with stand_in_cupy.installed(library):
        yield
    library.runtime.set_order(0)


def losses(model, rule, steps=4):
    optimizer = RULES[rule](model)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.loss(IDS, TARGETS)
        loss.backward()
        optimizer.step(clip_scale(grad_norm(optimizer.parameters()), 1.0))
        found.append(loss.item())
    return np.array(found)


@each_case
def test_the_losses_are_those_of_the_cpu(make, rule):
    """As far as moving every weight by its rounding moves them, times what is tolerated."""
    with kernels.use("reference"):
        wanted, unit = losses(MODELS[make](), rule), np.zeros(4)
        for seed in range(testing.DRAWS):
            moved, rng = MODELS[make](), new_generator(seed)
            with no_grad():
                for parameter in moved.parameters():
                    (near,) = testing.perturbed([parameter.data], rng, testing.EPS["float32"])
                    parameter.copy_(near.astype(np.float32))
            unit = np.maximum(unit, abs(losses(moved, rule) - wanted))
    found = losses(MODELS[make]().to("cuda"), rule)
    assert (abs(found - wanted) <= testing.budget([], []) * unit).all(), (found, wanted, unit)


@each_case
def test_every_run_has_the_same_bits(make, rule):
    runs = []
    for seed in (0, 1, 2):
        if device.name == "cuda on host":
            library.runtime.set_order(seed)
        model = MODELS[make]().to("cuda")
        found = losses(model, rule).tolist()
        runs.append((found, [parameter.numpy().tobytes() for parameter in model.parameters()]))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{"temperature": 0}, SAMPLED], ids=["greedy", "sampled"])
def test_every_family_writes_what_it_does_on_the_cpu(family, options):
    with kernels.use("reference"):
        wanted = written(FAMILIES[family](), [SHORT, LONG], options)
    found = written(FAMILIES[family]().to("cuda"), [SHORT, LONG], options)
    assert [ids for ids, _ in found] == [ids for ids, _ in wanted]
    for (_, tops), (_, right) in zip(found, wanted):
        for top, one in zip(tops, right, strict=True):
            largest = max(1, *map(abs, one.values()))
            assert top == pytest.approx(one, abs=1e-5 * largest)


def test_a_run_of_the_command_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("safetensors", reason="safetensors is not installed: no run is saved")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.txt").write_text(story(40), encoding="utf-8")
    words = flags(steps=3, eval_every=3, save_every=3, sample_tokens=2, batch=2)
    for where in ("cpu", "cuda"):
        assert minillm("train", "s.txt", *words, "--out", where, "--device", where) == 0
    assert "engine: CUDA extension on cuda (" in capsys.readouterr().err
    found, wanted = (metrics.read(tmp_path / where / "metrics.jsonl") for where in ("cuda", "cpu"))
    for one, other in zip(found, wanted, strict=True):
        for key in one.keys() - CLOCKED:
            assert one[key] == pytest.approx(other[key], rel=1e-3), key
    assert (
        minillm("generate", "cuda", "--prompt", "the", "--max-tokens", 2, "--device", "cuda") == 0
    )
    assert minillm("train", "--resume", "cuda", "--device", "cpu") == 0

"""The measured parts of the GPU's benchmark; each runs in a process of its own.

    python -m bench.gpu_parts PART LIMITS [rehearse]

LIMITS is the JSON of what the part `limits` found. A line of standard output that begins with
"row " is a figure, as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from bench.gpu_place import Place, Row, place
from bench.models import SIZES, Size, Training, build
from minillm import kernels, testing
from minillm.arrays import manual_seed, new_generator
from minillm.generation.reading import Reader
from minillm.ops import registry
from minillm.tensor import no_grad

Limits = dict[str, float]
BAND, RATE = "copy GB/s", "bf16 TFLOP/s"
GPT2 = Size(12, 12, 768, 1024, 32, 50257)
TINY = Size(2, 2, 32, 16, 2, 65)


def rival() -> Any:
    """bench.gpu_torch, or None where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    from bench import gpu_torch

    return gpu_torch


def limits(at: Place, _: Limits) -> Iterator[Row]:
    n = at.size(1 << 28, 1 << 16)
    source, target = at.xp.zeros(n, numpy.float32), at.xp.empty(n, numpy.float32)

    def copy() -> None:
        target[...] = source

    ms = at.turns({"copy": copy})["copy"]
    yield Row(BAND, "GB/s", 8 * n / ms * 1e-6)
    torch = rival()
    if torch is not None:
        call, flop = torch.product(at.size(8192, 64), at.torch_device)
        yield Row(RATE, "TFLOP/s", flop / at.turns({"product": call})["product"] * 1e-9)


def normal(*shape: int) -> numpy.ndarray:
    return new_generator(len(shape), *shape).standard_normal(shape, dtype=numpy.float32)


def ours(at: Place, name: str, arrays: list[Any], params: dict[str, Any]) -> dict[str, Any]:
    """Forward, and forward with backward, by the library's shims, on arrays of the device."""
    op, lib = registry[name], at.library
    shims = op.kernels(lib)
    there = [at.xp.asarray(array) for array in arrays]

    def forward() -> Any:
        served = shims[0](lib, at.xp, *there, **params) if shims[0] else NotImplemented
        return op.forward(at.xp, *there, **params) if served is NotImplemented else served

    if op.backward is None:
        return {"forward": forward}
    reference = op.backward
    out, _ = forward()
    upstream = at.xp.asarray(normal(*out.shape))

    def both() -> Any:
        saved = forward()[1]
        given = (upstream, saved, ()) if op.accumulates else (upstream, saved)
        served = shims[1](lib, at.xp, *given, **params) if shims[1] else NotImplemented
        return reference(at.xp, upstream, saved, **params) if served is NotImplemented else served

    return {"forward": forward, "both": both}


def bound(at: Place, known: Limits) -> Iterator[Row]:
    """What memory limits: arrays read and written once, as a share of a copy's speed."""
    rows, width = at.size(32768, 12), at.size(768, 8)
    wide, classes = at.size(2048, 16), at.size(50257, 19)
    x, scale, few = normal(rows, width), normal(width), at.size(8192, 6)
    target = new_generator(1).integers(0, classes, few)
    many = at.size(124_000_000, 999)
    state = [normal(many), normal(many), normal(many), normal(many) ** 2]
    update = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "step": 9}
    update["grad_scale"] = 1.0
    scales = numpy.ones(-(-many // 256), numpy.float32)
    codes = [numpy.ones(many, numpy.int8), scales, numpy.ones(many, numpy.uint8), scales]
    descent = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.1}
    loss = {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "mean"}
    # Arrays moved: forward, both; what moves none is not timed.
    cases: list[tuple[str, list[Any], dict[str, Any], int, int]] = [
        ("layer_norm", [x, scale, scale], {"eps": 1e-5}, 2, 5),
        ("rms_norm", [x, scale], {"eps": 1e-5}, 2, 5),
        ("softmax", [normal(rows, wide)], {}, 2, 5),
        ("cross_entropy", [normal(few, classes), target], loss, 1, 3),
        ("adamw", state, update, 7, 7),
        ("adamw8bit", [*state[:2], *codes], update, 4, 4),
        ("sgd", state[:3], descent, 5, 5),
        ("lerp", state[:2], {"weight": 1e-3}, 3, 3),
        ("norm", state[:1], {}, 1, 0),  # of gradients: nothing goes back through it
    ]
    torch = rival()
    for name, arrays, params, once, twice in cases:
        mine = ours(at, name, arrays, params)
        known_there = torch is not None and name in torch.FUNCTIONS
        theirs = torch.calls(name, arrays, params, at.torch_device, False) if known_there else {}
        for (what, call), moved in zip(mine.items(), (once, twice)):
            if not moved:
                continue
            pair = {"ours": call} | ({"torch": theirs[what]} if what in theirs else {})
            ms = at.turns(pair)
            speed = arrays[0].nbytes * moved / ms["ours"] * 1e-6
            rivals = {"torch": ms["torch"]} if "torch" in ms else {}
            share = speed / known[BAND] if BAND in known else None
            yield Row(f"{name} {what}", "ms", ms["ours"], rivals, "of a copy", share, 0.8)


def attention(at: Place, _: Limits) -> Iterator[Row]:
    shape = (at.size(8, 2), at.size(16, 2), at.size(2048, 9), at.size(64, 32))
    arrays, params = [normal(*shape) for _ in range(3)], {"causal": True}
    torch = rival()
    with at.bf16():
        calls = {"ours": ours(at, "scaled_dot_product_attention", arrays, params)["both"]}
        if torch is not None:
            name = "scaled_dot_product_attention"
            calls["torch"] = torch.calls(name, arrays, params, at.torch_device, True)["both"]
        ms = at.turns(calls)
    others = {"torch": ms["torch"]} if "torch" in ms else {}
    slower = ms["ours"] / ms["torch"] if others else None
    yield Row("attention both", "ms", ms["ours"], others, "x torch's time", slower, 1.3, True)


def muon(at: Place, known: Limits) -> Iterator[Row]:
    """Of all matrices of GPT-2 at once: the rate of its products, whatever else it does."""
    width, layers = at.size(768, 8), at.size(12, 2)
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * layers
    arrays = [normal(*shape) for shape in shapes for _ in range(3)]
    params = {"lr": 1e-3, "momentum": 0.95, "nesterov": True, "weight_decay": 0.1, "eps": 1e-7}
    params |= {"ns_steps": 5, "adjust_lr_fn": "match_rms_adamw"}
    flop = sum(5 * (4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3) for s in shapes)
    with at.bf16():
        ms = at.turns({"ours": ours(at, "muon", arrays, params)["forward"]})["ours"]
    rate = flop / ms * 1e-9
    share = rate / known[RATE] if RATE in known else None
    yield Row("muon", "TFLOP/s", rate, {}, "of the bf16 rate", share)


def train(at: Place, known: Limits) -> Iterator[Row]:
    size = TINY if at.rehearsal else GPT2
    before = at.free_bytes()
    mine = Training(size, "cuda", "bf16", 1, "cuda", graphs=True)
    for _ in range(3):  # from the second on by a graph
        mine.step()
    used = before - at.free_bytes()
    eager = Training(size, "cuda", "bf16", 1, "cuda")
    ours = {"ours": mine.step, "without graphs": eager.step}
    ms, memory = beside_torch(at, size, ours, False)
    yield step_row("training step", ms)
    assert mine.gradients is not None
    graphs = float(mine.gradients.graphs)
    yield Row("graphs of a step", "", graphs, {}, "captured", graphs, None if at.rehearsal else 1.0)
    step_by_step = ms["without graphs"]
    gain = step_by_step / ms["ours"]
    yield Row("step without graphs", "ms", step_by_step, {}, "x with graphs", gain)
    rate = size.step_flop / ms["ours"] * 1e-9
    share = rate / known[RATE] if RATE in known else None
    yield Row("training rate", "TFLOP/s", rate, {}, "of the bf16 rate", share, 0.4)
    yield Row("training memory", "GB", used / 1e9, {"torch": memory} if memory else {})


def compiled(at: Place, known: Limits) -> Iterator[Row]:
    """The same step beside `torch.compile`, which takes a minute to compile, or fails."""
    size = TINY if at.rehearsal else GPT2
    mine = Training(size, "cuda", "bf16", 1, "cuda", graphs=True)
    for _ in range(3):
        mine.step()
    ms, _ = beside_torch(at, size, {"ours": mine.step}, True)
    yield step_row("training step, torch.compile", ms)


def beside_torch(
    at: Place, size: Size, ours: dict[str, Callable[[], object]], by_compiler: bool
) -> tuple[dict[str, float], float]:
    """Milliseconds of a step of ours and of PyTorch's, where that is; its most memory in GB."""
    calls, torch, memory = dict(ours), rival(), 0.0
    if torch is not None:
        other = torch.training(size, at.torch_device, by_compiler and not at.rehearsal)
        calls["torch"] = other.step
        other.step()
        memory = torch.peak_bytes(at.torch_device) / 1e9
    return at.turns(calls), memory


def step_row(what: str, ms: dict[str, float]) -> Row:
    others = {"torch": ms["torch"]} if "torch" in ms else {}
    faster = ms["torch"] / ms["ours"] if others else None
    return Row(what, "ms", ms["ours"], others, "x torch", faster, 1.0)


def decode(at: Place, _: Limits) -> Iterator[Row]:
    size = TINY if at.rehearsal else SIZES["M"]
    prompt, count = [1, 2, 3, 4], at.size(128, 4)
    reader = Reader(build(size).to("cuda"))

    def write() -> None:
        reading, ids = reader.begin(), prompt
        for _ in range(count):
            ids = [int(reader.read([(reading, ids)])[0].argmax())]

    def write_without_graphs() -> None:
        with without_graphs():
            write()

    torch = rival()
    calls: dict[str, Callable[[], object]] = {"ours": write, "without graphs": write_without_graphs}
    if torch is not None:
        other = torch.Decoding(size, at.torch_device)
        calls["torch"] = lambda: other.write(prompt, count)
    with at.bf16():
        ms = at.turns(calls)
    others = {"torch": count / ms["torch"] * 1e3} if torch is not None else {}
    faster = ms["torch"] / ms["ours"] if others else None
    speed = count / ms["ours"] * 1e3
    yield Row("decoding, batch 1", "tokens/s", speed, others, "x torch", faster, 1.5)
    launched, gain = count / ms["without graphs"] * 1e3, ms["without graphs"] / ms["ours"]
    yield Row("decoding without graphs", "tokens/s", launched, {}, "x with graphs", gain)


@contextmanager
def without_graphs() -> Iterator[None]:
    """Token steps are launched kernel by kernel."""
    if kernels.cuda is None:
        yield
        return
    kernels.cuda.runtime.set_graphs(False)
    try:
        yield
    finally:
        kernels.cuda.runtime.set_graphs(kernels.graphs)


def curve(at: Place, _: Limits) -> Iterator[Row]:
    """The losses of training in float32, in units of what moving the weights by their rounding
    does to them on the CPU; and whether two runs in bfloat16 end in the same bits."""
    size, steps = TINY if at.rehearsal else SIZES["XS"], at.size(10, 2)
    wanted, unit = losses(size, "cpu", steps), numpy.zeros(steps)
    for seed in range(1, at.size(testing.DRAWS, 2) + 1):
        unit = numpy.maximum(unit, abs(losses(size, "cpu", steps, seed) - wanted))
    unit = numpy.maximum(unit, numpy.finfo(numpy.float32).eps * abs(wanted))
    off = float((abs(losses(size, "cuda", steps) - wanted) / unit).max())
    allowed = testing.budget([], [])
    yield Row("loss curve", "units", off, {}, "units off", off, allowed, True)
    once = weights(size, steps)
    for what, graphs in (("same bits twice", False), ("same bits by graphs", True)):
        same = float(weights(size, steps, graphs) == once)
        yield Row(what, "", same, {}, "equal", same, 1.0)


def weights(size: Size, steps: int, graphs: bool = False) -> list[bytes]:
    """After `steps` steps in bfloat16."""
    manual_seed(0)
    run = Training(size, "cuda", "bf16", 1, "cuda", graphs)
    for _ in range(steps):
        run.step()
    return [parameter.numpy().tobytes() for parameter in run.model.parameters()]


def losses(size: Size, device: str, steps: int, seed: int = 0) -> numpy.ndarray:
    """Of `steps` steps in float32; from weights moved by their rounding unless `seed` is 0."""
    manual_seed(0)
    run = Training(size, "reference" if device == "cpu" else "cuda", "f32", 1, device)
    if seed:
        rng = new_generator(seed)
        with no_grad():
            for parameter in run.model.parameters():
                (near,) = testing.perturbed([parameter.data], rng, testing.EPS["float32"])
                parameter.copy_(near.astype(numpy.float32))
    return numpy.array([run.step() for _ in range(steps)])


PARTS = {
    part.__name__: part for part in (limits, bound, muon, attention, train, compiled, decode, curve)
}


def main() -> None:
    name, known, *rehearse = sys.argv[1:]
    with place(bool(rehearse)) as at:
        for row in PARTS[name](at, json.loads(known)):
            print("row " + json.dumps(row.content()), flush=True)


if __name__ == "__main__":
    main()

"""LoRA beside the layers of a model: where they lie in the files, put there, merged.

Layers are named as in Hugging Face's files. One of ours that joins several of those (queries, keys
and values) has an adapter that joins theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy

from minillm import nn
from minillm.arrays import Array, new_generator, to_device
from minillm.models import FAMILIES


class Spot(NamedTuple):
    """Where rows of a matrix of ours lie in the files: the module's name, which rows, and whether
    it is stored as (in, out)."""

    module: str
    rows: slice
    transposed: bool


class Lora(NamedTuple):
    """How layers are adapted. `targets` are names of layers, by their last words in the files."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    dropout: float = 0.0
    rslora: bool = False


def spots_of(model: Any) -> dict[str, list[Spot]]:
    """For each matrix of a linear layer of the model (by our name) where it lies in the files.

    The family's own map is asked: it is given matrices whose numbers tell what they are.
    """
    layers = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    order: list[str] = []
    tagged: dict[str, Array] = {}
    for name, parameter in model.named_parameters():
        shape = parameter.shape
        if name in layers and ".lora_" not in name:
            rows = numpy.arange(shape[0])[:, None] + (len(order) << 32)
            tagged[name] = numpy.broadcast_to(rows, shape)
            order.append(name)
        elif ".lora_" not in name:
            tagged[name] = numpy.broadcast_to(numpy.int64(-1), shape)
    family = FAMILIES[model.config.to_hf()["model_type"]]
    found: dict[str, list[Spot]] = {name: [] for name in order}
    for name, array in family.to_files(tagged, model.config).items():
        if array.ndim != 2 or array[0, 0] < 0:
            continue
        transposed = array.shape[1] > 1 and array[0, 0] != array[0, 1]
        first, count = int(array[0, 0]), array.shape[1 if transposed else 0]
        row = first & 0xFFFFFFFF
        spot = Spot(name.removesuffix(".weight"), slice(row, row + count), bool(transposed))
        found[order[first >> 32]].append(spot)
    return {name: spots for name, spots in found.items() if spots}


def adaptable(model: Any) -> dict[str, list[Spot]]:
    """`spots_of` the layers inside the blocks: what adapters usually act on."""
    stack = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    inside = tuple(f"{name}." for name in stack)
    return {name: spots for name, spots in spots_of(model).items() if name.startswith(inside)}


def last_word(module: str) -> str:
    return module.rpartition(".")[2]


def attach(model: Any, lora: Lora, seed: int = 0) -> list[str]:
    """Freeze the model and put fresh adapters beside the targets; the names of their modules.

    Without targets that is every linear layer of the blocks. ValueError for a target that is none.
    """
    spots = adaptable(model)
    known = sorted({last_word(s.module) for found in spots.values() for s in found})
    for target in lora.targets:
        if target not in known:
            raise ValueError(
                f"lora: no layer is called {target!r}, some of {', '.join(known)} are needed"
            )
    wanted = lora.targets or tuple(known)
    freeze(model)
    generator, modules = new_generator(seed), []
    for name, found in spots.items():
        chosen = [spot for spot in found if last_word(spot.module) in wanted]
        if not chosen:
            continue
        if len(chosen) < len(found):
            missing = [s.module for s in found if s not in chosen]
            raise ValueError(
                f"lora: {chosen[0].module} is one matrix with {', '.join(missing)} here, all of "
                "them or none are needed as targets"
            )
        base = at(model, name)
        layer = nn.LoRALinear(base, lora.rank, lora.alpha, lora.dropout, lora.rslora, generator)
        for part in (layer.lora_A, layer.lora_B):
            part.data = to_device(part.data, base.weight.device)
        put(model, name, layer)
        modules += [spot.module for spot in chosen]
    return modules


def freeze(model: Any) -> None:
    """Let no parameter of the model require a gradient."""
    for parameter in model.parameters():
        parameter.requires_grad = False


def adapted(model: Any) -> Iterator[tuple[str, nn.LoRALinear]]:
    """Names and layers of all adapters."""
    for name, module in model.named_modules():
        if isinstance(module, nn.LoRALinear):
            yield name, module


def merge(model: Any) -> int:
    """Add all adapters to their weights and leave plain layers; how many. ValueError for none."""
    layers = list(adapted(model))
    if not layers:
        raise ValueError("merge: the model has no adapter, at least 1 is needed")
    for name, layer in layers:
        put(model, f"{name}.weight", layer.merged())
    return len(layers)


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Inside the block the model has plain layers with the sums as their weights."""
    layers = list(adapted(model))
    try:
        for name, layer in layers:
            put(model, f"{name}.weight", layer.merged())
        yield
    finally:
        for name, layer in layers:
            put(model, f"{name}.weight", layer)


def at(model: Any, weight: str) -> Any:
    """The layer of a weight's name."""
    part = model
    for word in weight.removesuffix(".weight").split("."):
        part = getattr(part, word)
    return part


def put(model: Any, weight: str, layer: nn.Module) -> None:
    """Set the layer of a weight's name."""
    parent, _, word = weight.removesuffix(".weight").rpartition(".")
    layer.training = model.training
    setattr(at(model, parent) if parent else model, word, layer)

"""LoRA adapters in files that `peft` reads and writes.

An adapter is a folder with adapter_config.json and adapter_model.safetensors. There its matrices
have the names that the layers have in Hugging Face's files. A layer of ours that joins several of
those (queries, keys and values) takes their matrices side by side: A stacked, B block-diagonal.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from minillm import nn
from minillm.arrays import to_device
from minillm.formats import hf, safetensors
from minillm.models.adapter_writing import CONFIG, PREFIX, WEIGHTS, save
from minillm.models.lora import (
    Lora,
    adapted,
    at,
    attach,
    freeze,
    merge,
    merged,
    put,
    spots_of,
)
from minillm.nn.parameter import Parameter

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "Lora",
    "adapted",
    "attach",
    "difference_of_bases",
    "freeze",
    "load",
    "merge",
    "merged",
    "read_config",
    "save",
    "spots_of",
]

REFUSED = {  # settings of peft that change what an adapter computes
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None,),
    "megatron_config": (None,),
}


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of adapter_config.json; FileNotFoundError or ValueError for what is no LoRA."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"adapter: {folder} holds no {CONFIG}, the folder of an adapter is needed"
        )
    content = hf.read_json(path)
    if content.get("peft_type") != "LORA":
        raise ValueError(f"adapter: {path} is {content.get('peft_type')!r}, LORA is needed")
    for name, neutral in REFUSED.items():
        if content.get(name) not in neutral and name in content:
            raise ValueError(
                f"adapter: {name} is {content[name]!r} in {path}, {neutral[0]!r} is needed; other "
                "values are not supported"
            )
    if content.get("modules_to_save"):
        raise ValueError(
            f"adapter: {path} replaces {', '.join(content['modules_to_save'])}, an adapter of "
            "matrices alone is needed"
        )
    for name, kinds in (("r", int), ("lora_alpha", (int, float))):
        if not isinstance(content.get(name), kinds) or content[name] <= 0:
            raise ValueError(
                f"adapter: {name} is {content.get(name)!r} in {path}, a number above 0 is needed"
            )
    return content


def load(model: Any, folder: str | os.PathLike[str], logits: Any = None) -> Lora:
    """Put the adapters of `folder` beside the layers of a model, which is frozen.

    `logits`, a function of ids, checks the base against the one that the adapter was made with: a
    warning says by how much they differ. ValueError for an adapter of another base.
    """
    folder = Path(folder)
    content = read_config(folder)
    arrays, _ = _read(folder)
    lora = Lora(
        content["r"],
        float(content["lora_alpha"]),
        tuple(content.get("target_modules") or ())
        if isinstance(content.get("target_modules"), list)
        else (),
        float(content.get("lora_dropout") or 0.0),
        bool(content.get("use_rslora")),
    )
    if logits is not None:
        difference = difference_of_bases(model, folder, logits)
        if difference is not None and difference > hf.TOLERANCE:
            warnings.warn(
                f"{folder}: the logits of this base differ by up to {difference:.3g} from those of "
                "the base that the adapter was made with",
                stacklevel=2,
            )
    pairs = _pairs(arrays, folder)
    freeze(model)
    unused = set(pairs)
    for name, spots in spots_of(model).items():
        found = [(spot, pairs[spot.module]) for spot in spots if spot.module in pairs]
        unused -= {spot.module for spot, _ in found}
        if found:
            put(model, name, _layer(at(model, name), found, lora, folder))
    if unused:
        raise ValueError(
            f"adapter: {folder} adapts {sorted(unused)[0]}, which this model does not have; the "
            f"base it was made for is needed ({content.get('base_model_name_or_path')})"
        )
    return lora


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Arrays and metadata, checked by the digest where there is one."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"adapter: {folder} holds no {WEIGHTS}, it is needed")
    arrays, metadata = safetensors.read(path)
    return safetensors.verify(path) if safetensors.DIGEST in metadata else (arrays, metadata)


def difference_of_bases(
    model: Any, folder: str | os.PathLike[str], logits: Callable[[numpy.ndarray], numpy.ndarray]
) -> float | None:
    """By how much the logits of this base differ from those of the one that the adapter was made
    with; None where the adapter does not say."""
    read_config(folder)
    metadata, config = _read(Path(folder))[1], model.config
    return hf.reference_difference(metadata, logits, config.vocab_size, config.context)


def _pairs(arrays: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """lora_A and lora_B by the name of the module."""
    pairs: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        module, _, kind = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if kind not in ("lora_A", "lora_B") or array.ndim != 2:
            raise ValueError(f"adapter: {name} in {folder} is no matrix lora_A or lora_B")
        pairs.setdefault(module, {})[kind] = array
    for module, pair in pairs.items():
        if len(pair) < 2:
            raise ValueError(
                f"adapter: {module} in {folder} has only {next(iter(pair))}, both "
                "matrices are needed"
            )
    if not pairs:
        raise ValueError(f"adapter: {folder} adapts nothing, at least 1 layer is needed")
    return pairs


def _layer(base: nn.Linear, found: Any, lora: Lora, folder: Path) -> nn.LoRALinear:
    out_features, in_features = base.weight.shape
    for spot, pair in found:
        rank, size = pair["lora_A"].shape[0], spot.rows.stop - spot.rows.start
        if pair["lora_A"].shape[1] != in_features or pair["lora_B"].shape != (size, rank):
            raise ValueError(
                f"adapter: {spot.module} in {folder} has matrices {pair['lora_A'].shape} and "
                f"{pair['lora_B'].shape}, ({rank}, {in_features}) and ({size}, {rank}) are needed; "
                "it was made for another base"
            )
        if rank != lora.rank:
            raise ValueError(
                f"adapter: {spot.module} in {folder} has rank {rank}, {lora.rank} is needed"
            )
    first = found[0][1]["lora_A"]
    alike = len(found) * (found[-1][0].rows.stop - found[-1][0].rows.start) == out_features
    shared = alike and all(numpy.array_equal(pair["lora_A"], first) for _, pair in found)
    layer = nn.skip_init(nn.LoRALinear, base, lora.rank, lora.alpha, lora.dropout, lora.rslora)
    if shared:
        a, b = first, numpy.concatenate([pair["lora_B"] for _, pair in found])
    else:
        a = numpy.concatenate([pair["lora_A"] for _, pair in found])
        b = numpy.zeros((out_features, len(a)), first.dtype)
        for place, (spot, pair) in enumerate(found):
            b[spot.rows, place * lora.rank : (place + 1) * lora.rank] = pair["lora_B"]
    layer.lora_A = Parameter(numpy.array(a, numpy.float32))
    layer.lora_B = Parameter(numpy.array(b, numpy.float32))
    for part in (layer.lora_A, layer.lora_B):
        part.data = to_device(part.data, base.weight.device)
    return layer

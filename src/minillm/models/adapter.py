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
from minillm.arrays import Array
from minillm.formats import hf, safetensors
from minillm.models import FAMILIES
from minillm.models.lora import (
    Lora,
    adapted,
    at,
    attach,
    freeze,
    last_word,
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

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TASKS = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}
ENCODER_TASKS = {
    "features": "FEATURE_EXTRACTION",
    "sequence": "SEQ_CLS",
    "token": "TOKEN_CLS",
    "span": "QUESTION_ANS",
}
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


def save(
    folder: str | os.PathLike[str], model: Any, lora: Lora, base: str, reference: Array | None
) -> None:
    """Write the adapters of a model; `reference` are the base's logits of the reference prompt.

    Parameters that are trained besides go into the same file, as what replaces those of the base:
    the head of a task, which the base does not have.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spots, arrays, modules = spots_of(model), {}, {}
    for name, layer in adapted(model):
        for spot in spots[f"{name}.weight"]:
            modules[spot.module] = spot.transposed
            arrays[f"{PREFIX}{spot.module}.lora_A.weight"] = layer.lora_A.numpy()
            arrays[f"{PREFIX}{spot.module}.lora_B.weight"] = numpy.ascontiguousarray(
                layer.lora_B.numpy()[spot.rows]
            )
    head = _trained_besides(model)
    arrays |= {f"{PREFIX}{name}": array for name, array in head.items()}
    kind = model.config.kind
    task = TASKS.get(kind) or ENCODER_TASKS.get(getattr(model.config, "task", ""))
    content = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "target_modules": sorted({last_word(name) for name in modules}),
        "fan_in_fan_out": all(modules.values()),
        "bias": "none",
        "modules_to_save": _parts_of(head, modules),
        "inference_mode": True,
        "init_lora_weights": True,
    }
    hf.write_json(folder / CONFIG, content)
    metadata = {"format": "pt"}
    if reference is not None:
        metadata |= hf.reference_metadata(reference)
    safetensors.write(folder / WEIGHTS, arrays, metadata)


def _trained_besides(model: Any) -> dict[str, Array]:
    """What is trained beside the adapters, under its names in the files."""
    names = dict(model.named_parameters())
    own = {n for n, p in names.items() if p.requires_grad and ".lora_" not in n}
    if not own:
        return {}
    with merged(model):
        plain = {n: numpy.broadcast_to(n in own, p.shape) for n, p in model.named_parameters()}
        state = model.state_dict()
    family = FAMILIES[model.config.to_hf()["model_type"]]
    marks = family.to_files(plain, model.config)
    return {n: a for n, a in family.to_files(state, model.config).items() if marks[n].all()}


def _parts_of(head: dict[str, Any], modules: dict[str, bool]) -> list[str] | None:
    """The parts of a model that hold these weights: by its first name, or the second where the
    first holds the blocks as well."""
    blocks = {name.partition(".")[0] for name in modules}
    found = set()
    for name in head:
        first, _, rest = name.partition(".")
        found.add(rest.partition(".")[0] if first in blocks else first)
    return sorted(found) or None


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
    return layer

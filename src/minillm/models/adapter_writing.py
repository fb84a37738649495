"""Writing LoRA adapters as `peft` reads them, with the head of a task that was trained beside."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy

from minillm.arrays import Array
from minillm.formats import hf, safetensors
from minillm.models import FAMILIES
from minillm.models.lora import Lora, adapted, last_word, merged, spots_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TASKS = {"decoder": "CAUSAL_LM", "encoder-decoder": "SEQ_2_SEQ_LM"}
ENCODER_TASKS = {
    "features": "FEATURE_EXTRACTION",
    "sequence": "SEQ_CLS",
    "token": "TOKEN_CLS",
    "span": "QUESTION_ANS",
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

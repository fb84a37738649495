"""What can be said of a model from its headers alone: sizes, memory, tokenizer, checks."""

from __future__ import annotations

import os
from typing import Any

from minillm import machine
from minillm.formats import hf, safetensors
from minillm.models.folder import load_tokenizer
from minillm.models.opening import BYTES, Model, find, open_model
from minillm.models.sizes import Sizes, sizes_of

LENGTH_TUNED = 1024  # tokens of the text that a step of training is estimated for
FLOATS_PER_FEATURE = 27  # kept for backward by a block, and held at work, per token and feature
STATES = 4  # weights, gradients, two moments of AdamW


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything that `minillm info` says; sizes and memory in numbers and bytes.

    Errors as in `find` and `open_model`; a model larger than memory is described like any other.
    """
    opened = open_model(find(path))
    config = opened.config
    content = config.to_hf()
    sizes = sizes_of(content)
    return {
        "path": str(opened.path),
        "format": opened.format,
        "files": [file.name for file in opened.files],
        "file_bytes": sum(file.stat().st_size for file in opened.files),
        "family": content["model_type"],
        "architecture": (content.get("architectures") or [None])[0],
        "kind": config.kind,
        "parameters": config.parameter_count,
        "layers": config.n_layer,
        "width": sizes.width,
        "heads": sizes.heads,
        "kv_heads": sizes.kv_heads,
        "context": config.context,
        "vocab_size": config.vocab_size,
        "dtypes": opened.dtypes,
        "tokenizer": _tokenizer(opened),
        "memory": _memory(config, sizes, opened.running_bytes()),
        "checks": _checks(opened),
    }


def _tokenizer(opened: Model) -> dict[str, Any] | None:
    """Kind and size; None where there is none, its error where it cannot be used."""
    try:
        tokenizer = load_tokenizer(opened.path, opened.metadata)
    except FileNotFoundError:
        return None
    except ValueError as error:
        return {"error": " ".join(str(error).split())}
    return {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}


def _memory(config: Any, sizes: Sizes, running: int) -> dict[str, int | None]:
    """Bytes, about: the weights as they run and in float32, what a token of context adds, a step
    of tuning."""
    weights = BYTES * config.parameter_count
    cached = 2 * BYTES * config.n_layer * sizes.kv_heads * sizes.head_size
    length = min(LENGTH_TUNED, config.context or LENGTH_TUNED)
    kept = BYTES * length * sizes.width * config.n_layer * FLOATS_PER_FEATURE
    return {
        "run": running,
        "float32": weights,
        "per_token": 0 if config.kind == "encoder" else cached,
        "tune": STATES * weights + kept,
        "tune_tokens": length,
        "free": machine.available_memory(),
    }


def _checks(opened: Model) -> dict[str, bool]:
    return {
        "digest": not opened.is_gguf and safetensors.DIGEST in opened.metadata,
        "reference_logits": hf.REFERENCE in opened.metadata,
    }

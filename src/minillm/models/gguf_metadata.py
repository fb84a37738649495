"""The content of config.json to the metadata of a GGUF file: the reverse of gguf_config."""

from __future__ import annotations

from typing import Any

import numpy

from minillm.models.gguf_keys import Content, Metadata
from minillm.models.gguf_rope import write_scaling
from minillm.quantities import counted

ARCHITECTURE_OF = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gpt2": "gpt2",
}


def to_metadata(content: Content) -> tuple[Metadata, numpy.ndarray | None]:
    """Metadata, and the factors of rotary frequencies where they have to be stored.

    ValueError names what llama.cpp would not compute as the model does.
    """
    kind = content["model_type"]
    if kind not in ARCHITECTURE_OF:
        raise ValueError(
            f"gguf: {kind} cannot be written, one of {', '.join(ARCHITECTURE_OF)} is needed"
        )
    arch = ARCHITECTURE_OF[kind]
    settings, factors = (_gpt2(content), None) if arch == "gpt2" else _rotary(content, arch)
    metadata: Metadata = {"general.architecture": arch}
    metadata |= {f"{arch}.{name}": value for name, value in settings.items()}
    return metadata | _special_ids(content), factors


def _special_ids(content: Content) -> Metadata:
    """The ids that begin and end a text, and a second one that ends it, if there is one."""
    given = content.get("eos_token_id")
    ends = given if isinstance(given, list) else [given]
    if len(ends) > 2:
        raise ValueError(
            f"gguf: eos_token_id={ends} cannot be held, at most two ids can end a text"
        )
    eos, eot = [*ends, None, None][:2]
    found = {"bos": content.get("bos_token_id"), "eos": eos, "eot": eot}
    return {f"tokenizer.ggml.{n}_token_id": id for n, id in found.items() if id is not None}


def _gpt2(content: Content) -> Metadata:
    _require(content, "activation_function", ("gelu_new", "gelu_pytorch_tanh"))
    _require(content, "scale_attn_weights", (True, None))
    _require(content, "scale_attn_by_inverse_layer_idx", (False, None))
    width = content["n_embd"]
    return {
        "vocab_size": content["vocab_size"],
        "context_length": content["n_positions"],
        "embedding_length": width,
        "block_count": content["n_layer"],
        "feed_forward_length": content.get("n_inner") or 4 * width,
        "attention.head_count": content["n_head"],
        "attention.layer_norm_epsilon": float(content["layer_norm_epsilon"]),
    }


def _rotary(content: Content, arch: str) -> tuple[Metadata, numpy.ndarray | None]:
    _require(content, "hidden_act", ("silu", "swish"))
    if arch != "llama":
        _require(content, "attention_bias", (arch == "qwen2", None))
    window, context = content.get("sliding_window"), content["max_position_embeddings"]
    slides = content["model_type"] == "mistral" or content.get("use_sliding_window")
    if slides and window is not None and window < context:
        raise ValueError(
            f"gguf: sliding_window={window} is not applied by llama.cpp, which would see all "
            f"{counted(context, 'position')}; a max_position_embeddings of at most {window} is "
            "needed"
        )
    metadata: Metadata = {
        "vocab_size": content["vocab_size"],
        "context_length": context,
        "embedding_length": content["hidden_size"],
        "block_count": content["num_hidden_layers"],
        "feed_forward_length": content["intermediate_size"],
        "attention.head_count": content["num_attention_heads"],
        "attention.head_count_kv": content["num_key_value_heads"],
        "attention.key_length": content["head_dim"],
        "attention.value_length": content["head_dim"],
        "attention.layer_norm_rms_epsilon": float(content["rms_norm_eps"]),
        "rope.dimension_count": content["head_dim"],
    }
    scaling, factors = write_scaling(content)
    return metadata | scaling, factors


def _require(content: Content, name: str, held: tuple[Any, ...]) -> None:
    if content.get(name) not in held:
        raise ValueError(
            f"gguf: {name}={content.get(name)!r} cannot be held, {held[0]!r} is needed"
        )

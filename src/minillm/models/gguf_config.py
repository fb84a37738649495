"""Metadata of a GGUF file to the content of config.json, for the architectures known here.

Source: the GGUF specification of ggml (docs/gguf.md) and what llama.cpp reads of it.
"""

from __future__ import annotations

from typing import Any

from minillm.models.gguf_keys import Content, Keys, Metadata
from minillm.models.gguf_rope import read_scaling

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gpt2")
SIZES = (  # what every architecture here has
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
)
GPT2 = ("attention.layer_norm_epsilon",)
ROTARY = (
    "attention.layer_norm_rms_epsilon",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
)
NEUTRAL: Content = {  # settings that are implemented for this value only
    "attention.causal": True,
    "attention.max_alibi_bias": 0.0,
    "attention.clamp_kqv": 0.0,
    "attention.sliding_window": 0,
    "expert_count": 0,
    "expert_used_count": 0,
    "expert_shared_count": 0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "embedding_scale": 1.0,
    "attention.scale": 0.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.finetuned": None,  # a remark
    "tensor_data_layout": None,
    "use_parallel_residual": True,
}


def to_content(
    metadata: Metadata,
    *,
    vocab_size: int,
    tied: bool,
    attention_bias: bool,
    mlp_bias: bool,
    factors: Any = None,
) -> Content:
    """The content of config.json; what metadata do not say is told by the tensors.

    `factors` are those by which rotary frequencies are divided, an array or None. ValueError names
    what is missing, of a wrong kind, or not implemented.
    """
    arch = architecture(metadata)
    keys = Keys(metadata, arch)
    keys.refuse_unknown((*SIZES, *(GPT2 if arch == "gpt2" else ROTARY)), NEUTRAL)
    content: Content = {
        "model_type": arch,
        "vocab_size": vocab_size,
        "tie_word_embeddings": tied,
        "bos_token_id": _id(metadata, "bos"),
        "eos_token_id": _ends(metadata),
        "torch_dtype": "float32",
    }
    content |= _gpt2(keys) if arch == "gpt2" else _rotary(keys, factors)
    if arch == "llama":
        content |= {"attention_bias": attention_bias, "mlp_bias": mlp_bias}
    return content


def architecture(metadata: Metadata) -> str:
    """`general.architecture`; ValueError if it is missing or not one of ARCHITECTURES."""
    arch = metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in ARCHITECTURES:
        raise ValueError(
            f"gguf: architecture {arch!r} is not supported, one of {', '.join(ARCHITECTURES)} "
            "is needed"
        )
    return arch


def _id(metadata: Metadata, name: str) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key)
    if value is not None and type(value) is not int:
        raise ValueError(f"gguf: {key} is {value!r}, one int is needed")
    return value


def _ends(metadata: Metadata) -> Any:
    """The id that ends a text; a list where the end of a turn is another."""
    found = [_id(metadata, name) for name in ("eos", "eot")]
    distinct = list(dict.fromkeys(id for id in found if id is not None))
    return distinct if len(distinct) > 1 else next(iter(distinct), None)


def _gpt2(keys: Keys) -> Content:
    width, inner = keys.get("embedding_length", int), keys.get("feed_forward_length", int)
    heads = keys.get("attention.head_count", int)
    if keys.get("attention.head_count_kv", int, heads) != heads:
        raise ValueError("gguf: gpt2.attention.head_count_kv differs from head_count")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": keys.get("context_length", int),
        "n_ctx": keys.get("context_length", int),
        "n_embd": width,
        "n_inner": None if inner == 4 * width else inner,
        "n_layer": keys.get("block_count", int),
        "n_head": heads,
        "layer_norm_epsilon": keys.get("attention.layer_norm_epsilon", float),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        "activation_function": "gelu_new",
    }


def _rotary(keys: Keys, factors: Any) -> Content:
    width, heads = keys.get("embedding_length", int), keys.get("attention.head_count", int)
    head_dim = keys.get("attention.key_length", int, width // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if keys.get(name, int, head_dim) != head_dim:
            raise ValueError(
                f"gguf: {keys.arch}.{name} is {keys.get(name, int)}, "
                f"only the size of a head, {head_dim}, is implemented"
            )
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    return {
        "architectures": [f"{names[keys.arch]}ForCausalLM"],
        "hidden_size": width,
        "intermediate_size": keys.get("feed_forward_length", int),
        "num_hidden_layers": keys.get("block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.get("attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": keys.get("context_length", int),
        "rms_norm_eps": keys.get("attention.layer_norm_rms_epsilon", float),
        "rope_theta": keys.get("rope.freq_base", float, 10000.0),
        "rope_scaling": read_scaling(keys, head_dim, factors),
    }

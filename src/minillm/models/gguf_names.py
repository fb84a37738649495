"""GGUF's tensor names and layouts, for the families that llama.cpp runs, as Hugging Face's.

`llama` keeps rows of queries and keys in the order of interleaved rotary pairs; gpt2's weights are
(out, in) where Hugging Face has (in, out).
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from minillm.arrays import Array
from minillm.formats import gguf
from minillm.formats.deferred import Changed, Deferred
from minillm.models.gguf_config import Content, Metadata, architecture, to_content

ROTARY_FACTORS = "rope_freqs.weight"
OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GPT2_OUTER = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
GPT2_LAYER = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
GPT2_TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")


def open_gguf(
    path: str | os.PathLike[str],
) -> tuple[Content, dict[str, Deferred], Metadata]:
    """The content of config.json, tensors by Hugging Face's names and in its layout, metadata.

    Tensors are decoded (rows reordered, weights transposed) when they are asked for; those whose
    names the architecture does not have keep theirs. ValueError in one line for a damaged file and
    for what is not supported, which is named.
    """
    metadata, tensors = gguf.read(path)
    try:
        factors = tensors.pop(ROTARY_FACTORS, None)
        content = to_content(
            metadata,
            _vocabulary(tensors),
            "output.weight" not in tensors,
            _biases(tensors),
            factors,
        )
        return content, _to_hf(tensors, architecture(metadata), content), metadata
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _vocabulary(tensors: dict[str, Deferred]) -> int:
    if "token_embd.weight" not in tensors:
        raise ValueError("gguf: tensor token_embd.weight is missing, it is needed")
    return tensors["token_embd.weight"].shape[0]


def _biases(tensors: dict[str, Deferred]) -> dict[str, bool]:
    return {"attention": "blk.0.attn_q.bias" in tensors, "mlp": "blk.0.ffn_up.bias" in tensors}


def hf_name(name: str, gpt2: bool) -> str:
    """Hugging Face's name of a tensor; the same name if it is none that is known."""
    stem, _, ending = name.rpartition(".")
    if stem.startswith("blk."):
        _, number, part = stem.split(".", 2) if stem.count(".") == 2 else ("", "", "")
        known = (GPT2_LAYER if gpt2 else LAYER).get(part)
        if known is None or not number.isdecimal():
            return name
        return f"{'transformer.h' if gpt2 else 'model.layers'}.{number}.{known}.{ending}"
    known = (GPT2_OUTER if gpt2 else OUTER).get(stem)
    return name if known is None else f"{known}.{ending}"


def _to_hf(tensors: dict[str, Deferred], arch: str, content: Content) -> dict[str, Deferred]:
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if arch == "gpt2" and name.endswith(GPT2_TRANSPOSED):
            tensor = tensor.T
        elif arch == "llama" and _rotated(name):
            kind = "attention" if ".attn_q." in name else "key_value"
            heads = content[f"num_{kind}_heads"]
            if heads < 1 or tensor.shape[0] % (2 * heads):
                raise ValueError(
                    f"gguf: {name} has {tensor.shape[0]} rows, {heads} heads share them"
                )
            tensor = Changed(tensor, tensor.shape, partial(half_split, heads=heads))
        found[hf_name(name, arch == "gpt2")] = tensor
    return found


def _rotated(name: str) -> bool:
    return name.startswith("blk.") and name.rpartition(".")[0].endswith((".attn_q", ".attn_k"))


def half_split(array: Array, heads: int) -> Array:
    """Rows of each head from the order of interleaved rotary pairs to that of split halves."""
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def interleaved(array: Array, heads: int) -> Array:
    """The reverse of `half_split`."""
    halves = array.reshape(heads, 2, -1, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)

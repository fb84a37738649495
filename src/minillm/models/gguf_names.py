"""GGUF's tensor names and layouts, for the families that llama.cpp runs, as Hugging Face's.

`llama` keeps the rows of queries and keys in the order of interleaved rotary pairs; gpt2's matrices
are (out, in) where Hugging Face has (in, out).
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, NamedTuple

import numpy

from minillm.arrays import Array
from minillm.formats import gguf
from minillm.formats.deferred import Changed, Deferred, Reordered
from minillm.models.gguf_config import architecture, to_content
from minillm.models.gguf_keys import Content, Metadata
from minillm.nn.rotary import half_split, interleaved

ROTARY_FACTORS = "rope_freqs.weight"
EMBEDDING, HEAD, POSITIONS = "token_embd.weight", "output.weight", "position_embd.weight"


class Names(NamedTuple):
    """Stems by GGUF's: outside the layers, within one; and which matrices are transposed."""

    layers: str
    outer: dict[str, str]
    layer: dict[str, str]
    transposed: tuple[str, ...] = ()

    def hf_name(self, name: str) -> str:
        """Hugging Face's name; the same name if it is none that is known."""
        stem, _, ending = name.rpartition(".")
        if stem in self.outer:
            return f"{self.outer[stem]}.{ending}"
        block, _, rest = stem.partition(".")
        number, _, part = rest.partition(".")
        if block != "blk" or part not in self.layer:
            return name
        return f"{self.layers}.{number}.{self.layer[part]}.{ending}"

    def gguf_name(self, name: str) -> str:
        """The reverse; ValueError for a name that GGUF has no place for."""
        stem, _, ending = name.rpartition(".")
        for ours, theirs in self.outer.items():
            if stem == theirs:
                return f"{ours}.{ending}"
        number, _, part = stem.removeprefix(f"{self.layers}.").partition(".")
        for ours, theirs in self.layer.items():
            if part == theirs and stem == f"{self.layers}.{number}.{part}":
                return f"blk.{number}.{ours}.{ending}"
        raise ValueError(f"gguf: {name} has no place in this architecture")


ROTARY_NAMES = Names(
    "model.layers",
    {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"},
    {
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
    },
)
GPT2_NAMES = Names(
    "transformer.h",
    {
        "token_embd": "transformer.wte",
        "position_embd": "transformer.wpe",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    },
    {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
    ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight"),
)
NAMES = {
    "llama": ROTARY_NAMES,
    "qwen2": ROTARY_NAMES,
    "qwen3": ROTARY_NAMES,
    "gpt2": GPT2_NAMES,
}


def open_gguf(
    path: str | os.PathLike[str],
) -> tuple[Content, dict[str, Deferred], Metadata]:
    """The content of config.json, tensors by Hugging Face's names and in its layout, metadata.

    Tensors are decoded (rows reordered, matrices transposed) when they are asked for; those whose
    names the architecture does not have keep theirs. ValueError in one line for a damaged file and
    for what is not supported, which is named.
    """
    metadata, tensors = gguf.read(path)
    try:
        arch = architecture(metadata)
        if metadata.get("split.count", 1) not in (0, 1):
            raise ValueError(
                f"gguf: one of {metadata['split.count']} parts of a model, a whole file is needed; "
                "join them with llama-gguf-split --merge"
            )
        if EMBEDDING not in tensors:
            raise ValueError(f"gguf: tensor {EMBEDDING} is missing, it is needed")
        content = to_content(
            metadata,
            vocab_size=tensors[EMBEDDING].shape[0],
            tied=HEAD not in tensors,
            attention_bias="blk.0.attn_q.bias" in tensors,
            mlp_bias="blk.0.ffn_up.bias" in tensors,
            factors=tensors.pop(ROTARY_FACTORS, None),
        )
        found = {}
        for name, tensor in tensors.items():
            found[NAMES[arch].hf_name(name)] = _to_hf(name, tensor, arch, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return content, found, metadata


def _to_hf(name: str, tensor: Deferred, arch: str, content: Content) -> Deferred:
    if name.startswith("blk.") and name.endswith(NAMES[arch].transposed):
        return tensor.T
    heads = rotated_heads(name, arch, content)
    if heads is None:
        return tensor
    if heads < 1 or tensor.shape[0] % (2 * heads):
        raise ValueError(f"gguf: {name} has {tensor.shape[0]} rows, {heads} heads share them")
    return Reordered(tensor, half_split(numpy.arange(tensor.shape[0]), heads))


def to_gguf(name: str, array: Array, arch: str, content: Content) -> Any:
    """A tensor in GGUF's layout, copied only once it is asked for; `name` is GGUF's."""
    if name.startswith("blk.") and name.endswith(NAMES[arch].transposed):
        return array.T
    heads = rotated_heads(name, arch, content)
    if heads is None:
        return array
    return Changed(array, array.shape, partial(interleaved, heads=heads))


def rotated_heads(name: str, arch: str, content: Content) -> int | None:
    """How many heads the rows of a tensor belong to, if GGUF has them in another order."""
    part = name.rpartition(".")[0].rpartition(".")[2]
    if arch != "llama" or part not in ("attn_q", "attn_k"):
        return None
    return content["num_attention_heads" if part == "attn_q" else "num_key_value_heads"]

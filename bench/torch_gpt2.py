"""GPT-2 in PyTorch's functions, on weights named as ours; nothing of minillm is imported."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F


def features(p: dict[str, Any], size: Any, ids: Any, cache: Any = None, start: int = 0) -> Any:
    """What the head reads, (B, T, C). `cache`: keys and values (B, H, T, D) of every layer.

    `size` has layers, heads, width and activation.
    """
    length, width = ids.shape[1], size.width
    end = start + length

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, (width,), p[f"{name}.weight"], p[f"{name}.bias"])

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    x = F.embedding(ids, p["wte.weight"]) + p["wpe.weight"][start:end]
    for layer in range(size.layers):
        block = f"h.{layer}"
        joint = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
        q, k, v = (
            part.view(len(ids), length, size.heads, -1).transpose(1, 2)
            for part in joint.split(width, dim=2)
        )
        if cache is not None:
            keys, values = cache[layer]
            keys[:, :, start:end], values[:, :, start:end] = k, v
            k, v = keys[:, :, :end], values[:, :, :end]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=length > 1)
        x = x + linear(y.transpose(1, 2).reshape(x.shape), f"{block}.attn.c_proj")
        inner = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        inner = F.gelu(inner, approximate="tanh" if size.activation == "gelu_new" else "none")
        x = x + linear(inner, f"{block}.mlp.c_proj")
    return norm(x, "ln_f")

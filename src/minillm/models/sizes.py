"""Sizes that a configuration gives under the names of its family."""

from __future__ import annotations

from typing import Any, NamedTuple

WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "nhead")
KV_HEADS = ("num_key_value_heads",)
HEAD_SIZES = ("head_dim", "d_kv")


class Sizes(NamedTuple):
    """Of a model, and of what each of its layers keeps of a token: keys and values of so many
    heads, `head_size` numbers each."""

    width: int
    heads: int
    kv_heads: int
    head_size: int


def sizes_of(content: dict[str, Any]) -> Sizes:
    """Those of a configuration as `to_hf` gives it."""
    width, heads = _first(content, WIDTHS), _first(content, HEADS)
    kv_heads = _first(content, KV_HEADS) or heads
    return Sizes(width, heads, kv_heads, _first(content, HEAD_SIZES) or width // heads)


def _first(content: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((content[name] for name in names if content.get(name) is not None), None)

"""Modules."""

from minillm.nn.attention import attend, merge_heads, split_heads
from minillm.nn.layers import GELU, Dropout, Embedding, LayerNorm, Linear, RMSNorm, normal, uniform
from minillm.nn.module import Module, ModuleList, Parameter, Sequential

__all__ = [
    "GELU",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "RMSNorm",
    "Sequential",
    "attend",
    "merge_heads",
    "normal",
    "split_heads",
    "uniform",
]

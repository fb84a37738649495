"""Modules."""

from minillm.nn.attention import attend, attend_dropping, merge_heads, split_heads
from minillm.nn.layers import (
    ACTIVATIONS,
    GELU,
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    Linear,
    RMSNorm,
    normal,
    uniform,
)
from minillm.nn.module import Module, ModuleList, Parameter, Sequential

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "Dropout",
    "Embedding",
    "FeedForward",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "RMSNorm",
    "Sequential",
    "attend",
    "attend_dropping",
    "merge_heads",
    "normal",
    "split_heads",
    "uniform",
]

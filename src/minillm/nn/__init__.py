"""Modules."""

from minillm.nn.attention import attend, attend_dropping, merge_heads, split_heads
from minillm.nn.layers import (
    ACTIVATIONS,
    GELU,
    Dropout,
    Embedding,
    FeedForward,
    GatedFeedForward,
    LayerNorm,
    Linear,
    RMSNorm,
    feed_forward,
    linear,
    normal,
    uniform,
)
from minillm.nn.lora import LoRALinear
from minillm.nn.loss import linear_cross_entropy
from minillm.nn.module import Module, ModuleList, Sequential
from minillm.nn.multihead import MultiheadAttention
from minillm.nn.parameter import (
    DeferredParameter,
    Parameter,
    blocks_of,
    held_blocks,
    init_skipped,
    skip_init,
)
from minillm.nn.relative_position import RelativePositionBias, relative_position_bucket
from minillm.nn.rotary import Rotary
from minillm.nn.sinusoidal import sinusoidal_positions

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "DeferredParameter",
    "Dropout",
    "Embedding",
    "FeedForward",
    "GatedFeedForward",
    "LayerNorm",
    "Linear",
    "LoRALinear",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "RMSNorm",
    "RelativePositionBias",
    "Rotary",
    "Sequential",
    "attend",
    "attend_dropping",
    "blocks_of",
    "feed_forward",
    "held_blocks",
    "init_skipped",
    "linear",
    "linear_cross_entropy",
    "merge_heads",
    "normal",
    "relative_position_bucket",
    "sinusoidal_positions",
    "skip_init",
    "split_heads",
    "uniform",
]

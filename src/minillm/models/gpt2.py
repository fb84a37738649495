"""GPT-2 (Radford et al. 2019): learned positions, pre-norm blocks, GPT-2's GELU, tied head."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy

from minillm import nn, ops
from minillm.arrays import (
    Array,
    default_generator,
    is_gpu_array,
    new_generator,
    vouched,
    xp_of,
)
from minillm.models.family import ACTIVATIONS, Family, tie, without_prefix
from minillm.models.gpt2_config import MODEL_TYPE, GPT2Config
from minillm.models.pretrained import Pretrained
from minillm.nn.attention import LayerCache
from minillm.tensor import Tensor, checkpoint

HEAD = "lm_head.weight"
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
BUFFERS = (".attn.bias", ".attn.masked_bias")


class Attention(nn.Module):
    """Causal self-attention; queries, keys and values from one product."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.scale = layer, config.n_head, config.scale(layer)
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(
        self,
        x: Tensor,
        cache: LayerCache | None,
        residual: Tensor | None = None,
        mask: Any = None,
    ) -> Tensor:
        width = x.shape[-1]
        joint = self.c_attn(x)  # (B, T, 3C)
        if cache is None and mask is None:
            mixed = ops.packed_attention(joint, heads=self.heads, scale=self.scale)
            return self.c_proj(mixed, residual)
        q, k, v = (
            nn.split_heads(joint[..., start : start + width], self.heads)  # (B, H, T, D)
            for start in (0, width, 2 * width)
        )
        out = nn.attend(q, k, v, layer=self.layer, cache=cache, mask=mask, scale=self.scale)
        return self.c_proj(nn.merge_heads(out), residual)


class MLP(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.inner)
        self.c_proj = nn.Linear(config.inner, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return nn.feed_forward(x, self.c_fc, self.c_proj, self.activation, residual)


class Block(nn.Module):
    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: LayerCache | None = None, mask: Any = None) -> Tensor:
        if self.dropout.active:
            x = x + self.dropout(self.attn(self.ln_1(x), cache, mask=mask))
            return x + self.dropout(self.mlp(self.ln_2(x)))
        x = self.attn(self.ln_1(x), cache, x, mask)
        return self.mlp(self.ln_2(x), residual=x)


class GPT2(Pretrained):
    """model(ids) gives logits; `loss` trains without holding them.

    Weights start as in GPT-2: N(0, 0.02), those of projections into the residual stream smaller by
    sqrt(2 * layers), biases 0; drawn from `seed`.
    """

    def __init__(self, config: GPT2Config, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # run each block again in backward instead of keeping its insides
        self.stochastic_depth = 0.0  # with what probability the last block is left out in training
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if not nn.init_skipped():
            self.initialise(seed)

    def initialise(self, seed: int) -> None:
        """Draw all weights anew from `seed`."""
        generator = new_generator(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02
                if name.endswith("c_proj.weight"):
                    std /= math.sqrt(2 * self.config.n_layer)
                parameter.data[...] = generator.normal(0.0, std, parameter.shape)
            else:
                parameter.data[...] = 1.0 if name.endswith("weight") else 0.0

    def features(self, ids: Any, cache: Any = None, documents: Any = None) -> Tensor:
        """What the head reads: ids (B, T) to (B, T, C). A cache shifts the positions.

        `documents` (B, T), without a cache, numbers the document that each id is of, those of one
        side by side: each is read as if it stood alone.
        """
        if getattr(ids, "ndim", None) != 2:
            raise ValueError(f"gpt2: ids of shape {numpy.shape(ids)}, an array (B, T) is needed")
        start = 0 if cache is None else cache.length
        end = start + ids.shape[1]
        if end > self.config.n_positions:
            raise ValueError(
                f"gpt2: position {end - 1} asked for, the model has {self.config.n_positions}"
            )
        positions, mask = numpy.arange(start, end), None
        if documents is not None:
            positions = places_in(documents)
            mask = (documents[:, :, None] == documents[:, None, :])[:, None]
        x = self.dropout(self.wte(ids) + self.wpe(positions))
        for block, kept in zip(self.h, self.survivals(), strict=True):
            if kept < 1 and default_generator.random() >= kept:
                continue
            if self.recompute and cache is None:
                out = checkpoint(functools.partial(block, mask=mask), x)
            else:
                out = block(x, cache, mask)
            x = out if kept == 1 else x + (out - x) * (1 / kept)
        return self.ln_f(x)

    def survivals(self) -> list[float]:
        """With what probability each block takes part, less the deeper it is (Huang et al. 2016).

        What a block adds that does take part is divided by it, so that the mean is what all of them
        add. Outside training all take part.
        """
        layers = len(self.h)
        rate = self.stochastic_depth if self.training else 0.0
        return [1 - rate * (layer + 1) / layers for layer in range(layers)]

    @property
    def head(self) -> nn.Parameter:
        """The weight (V, C) that gives logits."""
        return (self.wte if self.config.tie_word_embeddings else self.lm_head).weight

    def forward(self, ids: Any, cache: Any = None) -> Tensor:
        """Logits (B, T, V) for ids (B, T)."""
        return nn.linear(self.features(ids, cache), self.head)

    def next_logits(self, ids: Any, cache: Any = None) -> Tensor:
        """Logits (B, V) after the last id of each row."""
        return nn.linear(self.features(ids, cache)[:, -1], self.head)

    def loss(
        self,
        ids: Any,
        targets: Any,
        reduction: str = "mean",
        documents: Any = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Cross-entropy of targets (B, T) in nats, -100 ignored; `documents` as in `features`."""
        features = self.features(ids, documents=documents)
        return nn.linear_cross_entropy(features, self.head, targets, reduction, label_smoothing)


def places_in(documents: Any) -> Any:
    """The place of each position in its document, from 0: (B, T) to (B, T)."""
    if is_gpu_array(documents):  # CuPy accumulates no maximum: positions before it are counted
        steps = xp_of(documents).arange(documents.shape[1])
        same = documents[:, :, None] == documents[:, None, :]
        return vouched((same & (steps < steps[:, None])).sum(axis=2))
    places = numpy.arange(documents.shape[1])
    begins = numpy.zeros(documents.shape, places.dtype)
    begins[:, 1:] = numpy.where(documents[:, 1:] != documents[:, :-1], places[1:], 0)
    return places - numpy.maximum.accumulate(begins, axis=1)


def to_files(state: dict[str, Array], config: GPT2Config) -> dict[str, Array]:
    """Our names and layout to Hugging Face's: `transformer.` before, Conv1D weights transposed."""
    return {
        name if name == HEAD else f"transformer.{name}": (
            array.T if name.endswith(TRANSPOSED) else array
        )
        for name, array in state.items()
    }


def from_files(arrays: dict[str, Array], config: GPT2Config) -> dict[str, Array]:
    """The reverse of `to_files`; prefix optional, mask buffers and a tied head are dropped.

    minGPT and nanoGPT store the four weights as Linear has them, (out, in). The shape of c_attn
    tells, for the square one beside it as well.
    """
    state = without_prefix(arrays, "transformer.", MODEL_TYPE)
    state = {name: array for name, array in state.items() if not name.endswith(BUFFERS)}
    joint = state.get("h.0.attn.c_attn.weight")
    if joint is None or tuple(joint.shape) != (3 * config.n_embd, config.n_embd):
        for name in [name for name in state if name.endswith(TRANSPOSED)]:
            state[name] = state[name].T
    if config.tie_word_embeddings:
        tie(state, HEAD, "wte.weight", "gpt2")
    return state


FAMILY = Family((MODEL_TYPE,), GPT2Config, GPT2, from_files, to_files)

"""The Transformer of Vaswani et al. 2017: encoder and decoder, sinusoidal positions.

Norms stand after each part, as in the paper, or before it. Parts and parameters have the names of
torch.nn.Transformer, beside source_embeddings, target_embeddings and output.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy

from minillm import nn
from minillm.arrays import Array, new_generator
from minillm.models.encoder_decoder import EncoderDecoder, check_ids, visible_keys
from minillm.models.family import Family, tie
from minillm.models.transformer_config import MODEL_TYPE, TransformerConfig
from minillm.nn.attention import MemoryCache
from minillm.tensor import Tensor, checkpoint


class Layer(nn.Module):
    """Self-attention, in a decoder attention on the memory, and two linear layers."""

    def __init__(self, config: TransformerConfig, layer: int, decoder: bool) -> None:
        super().__init__()
        c = config.d_model
        self.norm_first, self.decoder = config.norm_first, decoder
        self.activation = config.activation
        self.self_attn = nn.MultiheadAttention(c, config.nhead, config.dropout, layer)
        if decoder:
            self.multihead_attn = nn.MultiheadAttention(c, config.nhead, config.dropout, layer)
        self.linear1 = nn.Linear(c, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, c)
        self.norm1 = nn.LayerNorm(c, config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(c, config.layer_norm_eps)
        if decoder:
            self.norm3 = nn.LayerNorm(c, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def added(self, part: Any, norm: nn.LayerNorm, x: Tensor, **options: Any) -> Tensor:
        """x and what the part gives for it, normalised before the part or after the sum."""
        inner = norm(x) if self.norm_first else x
        if self.dropout.active:
            x = x + self.dropout(part(inner, None, **options))
        else:
            x = part(inner, x, **options)
        return x if self.norm_first else norm(x)

    def feed_forward(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if not self.dropout.active:
            return nn.feed_forward(x, self.linear1, self.linear2, self.activation, residual)
        hidden = nn.ACTIVATIONS[self.activation](self.linear1(x))
        return self.linear2(self.dropout(hidden), residual)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Any = None,
        cache: MemoryCache | None = None,
    ) -> Tensor:
        """`mask` is of the source: of x in an encoder, of the memory in a decoder."""
        if not self.decoder:
            x = self.added(self.self_attn, self.norm1, x, mask=mask)
            return self.added(self.feed_forward, self.norm2, x)
        x = self.added(self.self_attn, self.norm1, x, causal=True, cache=cache)
        x = self.added(self.multihead_attn, self.norm2, x, memory=memory, mask=mask, cache=cache)
        return self.added(self.feed_forward, self.norm3, x)


class Stack(nn.Module):
    """Layers, and a norm after the last where the configuration has one."""

    def __init__(self, config: TransformerConfig, decoder: bool) -> None:
        super().__init__()
        count = config.num_decoder_layers if decoder else config.num_encoder_layers
        self.layers = nn.ModuleList(Layer(config, layer, decoder) for layer in range(count))
        if config.final_norm:
            self.norm = nn.LayerNorm(config.d_model, config.layer_norm_eps)
        self.final_norm = config.final_norm

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Any = None,
        cache: MemoryCache | None = None,
        recompute: bool = False,
    ) -> Tensor:
        for layer in self.layers:
            if recompute and cache is None:
                inputs = (x,) if memory is None else (x, memory)
                x = checkpoint(functools.partial(layer, mask=mask), *inputs)
            else:
                x = layer(x, memory, mask, cache)
        return self.norm(x) if self.final_norm else x


class Transformer(EncoderDecoder):
    """model(ids, decoder_ids) gives logits; see `EncoderDecoder`.

    Dropout acts on embeddings, attention weights, hidden features and what each part adds. Matrices
    start as Glorot and Bengio 2010 have it, embeddings so that the scaled ones have variance 1,
    biases 0; drawn from `seed`.
    """

    family = MODEL_TYPE

    def __init__(self, config: TransformerConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # run each layer again in backward instead of keeping its insides
        self.source_embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.target_embeddings = (
            self.source_embeddings
            if config.share_embeddings
            else nn.Embedding(config.target_size, config.d_model)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Stack(config, decoder=False)
        self.decoder = Stack(config, decoder=True)
        self.output = nn.Linear(config.d_model, config.target_size, bias=config.output_bias)
        if config.tie_word_embeddings:
            self.output.weight = self.target_embeddings.weight
        if not nn.init_skipped():
            self.initialise(seed)

    def initialise(self, seed: int) -> None:
        """Draw all weights anew from `seed`."""
        generator = new_generator(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.data[...] = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            elif name.endswith("embeddings.weight"):
                std = self.config.d_model**-0.5
                parameter.data[...] = generator.normal(0.0, std, parameter.shape)
            else:
                bound = math.sqrt(6 / sum(parameter.shape))
                parameter.data[...] = generator.uniform(-bound, bound, parameter.shape)

    @property
    def head(self) -> nn.Linear:
        return self.output

    def embedded(self, embedding: nn.Embedding, ids: Any, start: int = 0) -> Tensor:
        """Embeddings and positions of ids (B, T), the first at place `start` of its text."""
        check_ids(self.family, ids)
        config, x = self.config, embedding(ids)
        if config.scale_embeddings:
            x = x * math.sqrt(config.d_model)
        places = numpy.arange(start, start + ids.shape[1]) + config.first_position
        waves = nn.sinusoidal_positions(places, config.d_model, config.positions)
        return self.dropout(x + waves.astype(x.data.dtype))

    def encode(self, ids: Any, mask: Any = None) -> Tensor:
        """The memory (B, S, C) that the decoder reads, for source ids (B, S)."""
        x = self.embedded(self.source_embeddings, ids)
        visible = visible_keys(self.family, mask, *ids.shape)
        return self.encoder(x, None, visible, recompute=self.recompute)

    def features_of(
        self, decoder_ids: Any, memory: Tensor, mask: Any, cache: MemoryCache | None
    ) -> Tensor:
        """What the head reads: decoder_ids (B, T) to (B, T, C)."""
        start = 0 if cache is None else cache.length
        x = self.embedded(self.target_embeddings, decoder_ids, start)
        return self.decoder(x, memory, mask, cache, self.recompute)


def to_files(state: dict[str, Array], config: TransformerConfig) -> dict[str, Array]:
    """Our names are those of the files."""
    return dict(state)


def from_files(arrays: dict[str, Array], config: TransformerConfig) -> dict[str, Array]:
    """Drops copies of weights that the configuration makes one."""
    state = dict(arrays)
    if config.share_embeddings:
        tie(state, "target_embeddings.weight", "source_embeddings.weight", MODEL_TYPE)
    if config.tie_word_embeddings:
        target = "source" if config.share_embeddings else "target"
        tie(state, "output.weight", f"{target}_embeddings.weight", MODEL_TYPE)
    return state


FAMILY = Family((MODEL_TYPE,), TransformerConfig, Transformer, from_files, to_files)

"""T5 (Raffel et al. 2020), v1.0 and v1.1 / Flan: relative position buckets, RMS norm, no biases."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy

from minillm import nn, ops
from minillm.arrays import Array, new_generator
from minillm.models.encoder_decoder import EncoderDecoder, check_ids, visible_keys
from minillm.models.family import ACTIVATIONS, Family, tie
from minillm.models.t5_config import MODEL_TYPE, T5Config
from minillm.nn.attention import MemoryCache
from minillm.tensor import Tensor, checkpoint

UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


class Attention(nn.Module):
    """Keys and values from x, or from a memory. Scores are not scaled: training did that to q."""

    def __init__(self, config: T5Config, layer: int, bidirectional: bool | None) -> None:
        """`bidirectional` is of the relative positions; None where there is no bias of them."""
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.layer, self.heads = layer, config.num_heads
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)
        if bidirectional is not None:
            self.relative_attention_bias = nn.RelativePositionBias(
                config.num_heads,
                config.relative_attention_num_buckets,
                config.relative_attention_max_distance,
                bidirectional,
            )

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return nn.split_heads(self.k(x), self.heads), nn.split_heads(self.v(x), self.heads)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        mask: Any,
        memory: Tensor | None = None,
        cache: MemoryCache | None = None,
        causal: bool = False,
    ) -> Tensor:
        q = nn.split_heads(self.q(x), self.heads)
        if memory is None:
            k, v = self.keys_and_values(x)
            if cache is not None:
                k, v = cache.update(self.layer, k, v)
        elif cache is None:
            k, v = self.keys_and_values(memory)
        else:
            k, v = cache.memory(self.layer, lambda: self.keys_and_values(memory))
        if self.dropout.active:
            mixed = nn.attend_dropping(q, k, v, self.dropout, mask=mask, causal=causal, scale=1.0)
        else:
            offset = k.shape[2] - q.shape[2] if causal else 0
            mixed = ops.scaled_dot_product_attention(
                q, k, v, mask, causal=causal, offset=offset, scale=1.0
            )
        return self.o(nn.merge_heads(mixed), residual)


class FeedForward(nn.Module):
    """wo(activation(wi(x))), or wo(activation(wi_0(x)) * wi_1(x)) where it is gated."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.gated = config.gated
        if self.gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if not self.gated and not self.dropout.active:
            return nn.feed_forward(x, self.wi, self.wo, self.activation, residual)
        activate = nn.ACTIVATIONS[self.activation]
        hidden = activate(self.wi_0(x)) * self.wi_1(x) if self.gated else activate(self.wi(x))
        return self.wo(self.dropout(hidden), residual)


class Sublayer(nn.Module):
    """x + dropout(part(norm(x))), the part under its name in files."""

    def __init__(self, config: T5Config, name: str, part: nn.Module) -> None:
        super().__init__()
        setattr(self, name, part)
        self.layer_norm = nn.RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.name = name

    @property
    def part(self) -> Any:
        return getattr(self, self.name)

    def forward(self, x: Tensor, *inputs: Any, **options: Any) -> Tensor:
        normal = self.layer_norm(x)
        if self.dropout.active:
            return x + self.dropout(self.part(normal, None, *inputs, **options))
        return self.part(normal, x, *inputs, **options)


class Block(nn.Module):
    """Self-attention, in a decoder attention on the memory, feed-forward."""

    def __init__(self, config: T5Config, layer: int, decoder: bool) -> None:
        super().__init__()
        bias = None if layer else not decoder
        self.decoder = decoder
        self.layer = nn.ModuleList()
        self.layer.append(Sublayer(config, "SelfAttention", Attention(config, layer, bias)))
        if decoder:
            cross = Attention(config, layer, None)
            self.layer.append(Sublayer(config, "EncDecAttention", cross))
        self.layer.append(Sublayer(config, "DenseReluDense", FeedForward(config)))

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        memory: Tensor | None = None,
        mask: Any = None,
        cache: MemoryCache | None = None,
    ) -> Tensor:
        x = self.layer[0](x, bias, cache=cache, causal=self.decoder)
        if self.decoder:
            x = self.layer[1](x, mask, memory, cache)
        return self.layer[len(self.layer) - 1](x)


class Stack(nn.Module):
    """Blocks that share the bias of the first, and a norm."""

    def __init__(self, config: T5Config, decoder: bool) -> None:
        super().__init__()
        layers = config.n_layer if decoder else config.num_layers
        self.block = nn.ModuleList(Block(config, layer, decoder) for layer in range(layers))
        self.final_layer_norm = nn.RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def bias(self, queries: int, offset: int) -> Tensor:
        """(1, H, Tq, Tk) for queries from offset on, all keys up to the last of them."""
        first: Any = self.block[0]
        return first.layer[0].part.relative_attention_bias(queries, offset + queries, offset)

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        memory: Tensor | None = None,
        mask: Any = None,
        cache: MemoryCache | None = None,
        recompute: bool = False,
    ) -> Tensor:
        x = self.dropout(x)
        for block in self.block:
            if recompute and cache is None:
                inputs = (x, bias) if memory is None else (x, bias, memory)
                x = checkpoint(functools.partial(block, mask=mask), *inputs)
            else:
                x = block(x, bias, memory, mask, cache)
        return self.dropout(self.final_layer_norm(x))


class T5(EncoderDecoder):
    """model(ids, decoder_ids) gives logits; see `EncoderDecoder`.

    Dropout acts on embeddings, attention weights, hidden features, what each part adds, and after
    the last norm. Weights start as in T5, drawn from `seed`.
    """

    family = "t5"

    def __init__(self, config: T5Config, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.recompute = False  # run each block again in backward instead of keeping its insides
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, decoder=False)
        self.decoder = Stack(config, decoder=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if not config.own_head:
            self.lm_head.weight = self.shared.weight
        if not nn.init_skipped():
            self.initialise(seed)

    def initialise(self, seed: int) -> None:
        """Draw all weights anew from `seed`."""
        config, generator = self.config, new_generator(seed)
        inner = config.num_heads * config.d_kv
        scales = {"shared": 1, "lm_head": 1, "q": config.d_model * config.d_kv, "o": inner,
                  "wo": config.d_ff}  # fmt: skip
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.data[...] = config.initializer_factor
                continue
            fan_in = scales.get(name.split(".")[-2], config.d_model)
            std = config.initializer_factor / math.sqrt(fan_in)
            parameter.data[...] = generator.normal(0.0, std, parameter.shape)

    @property
    def head(self) -> nn.Linear:
        return self.lm_head

    def encode(self, ids: Any, mask: Any = None) -> Tensor:
        """The memory (B, S, C) that the decoder reads, for source ids (B, S)."""
        check_ids(self.family, ids)
        visible = visible_keys(self.family, mask, *ids.shape)
        bias = self.encoder.bias(ids.shape[1], 0)
        if visible is not None:
            hidden = numpy.where(visible, 0.0, -numpy.inf).astype(bias.data.dtype)
            bias = bias + hidden  # (B, H, S, S)
        return self.encoder(self.shared(ids), bias, recompute=self.recompute)

    def features_of(
        self, decoder_ids: Any, memory: Tensor, mask: Any, cache: MemoryCache | None
    ) -> Tensor:
        """What the head reads: decoder_ids (B, T) to (B, T, C), scaled where the head is tied."""
        bias = self.decoder.bias(decoder_ids.shape[1], 0 if cache is None else cache.length)
        x = self.shared(decoder_ids)
        x = self.decoder(x, bias, memory, mask, cache, self.recompute)
        return x * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else x


def to_files(state: dict[str, Array], config: T5Config) -> dict[str, Array]:
    """Our names are those of the files."""
    return dict(state)


def from_files(arrays: dict[str, Array], config: T5Config) -> dict[str, Array]:
    """Drops copies of the embedding, and a bias that old files hold and nothing reads."""
    state = {name: array for name, array in arrays.items() if name != UNUSED}
    for twin in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        tie(state, twin, "shared.weight", "t5")
    if not config.own_head:
        tie(state, "lm_head.weight", "shared.weight", "t5")
    elif config.tie_word_embeddings and "shared.weight" in state:  # transformers 5 left it out
        state.setdefault("lm_head.weight", state["shared.weight"])
    return state


FAMILY = Family((MODEL_TYPE,), T5Config, T5, from_files, to_files)

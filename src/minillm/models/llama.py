"""The Llama family: Llama, Mistral, Qwen2 and Qwen3 (SmolLM2 and TinyLlama are Llamas).

Pre-norm blocks with RMSNorm, rotary positions, grouped key-value heads and a gated feed-forward
layer (Touvron et al. 2023, Jiang et al. 2023, Qwen 2024 and 2025).
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from minillm import nn
from minillm.arrays import Array, new_generator
from minillm.models.family import ACTIVATIONS, Family, tie, without_prefix
from minillm.models.llama_config import ARCHITECTURES, LlamaConfig
from minillm.models.pretrained import Pretrained
from minillm.nn.attention import LayerCache
from minillm.nn.rotary import Angles
from minillm.tensor import Tensor, checkpoint

INTO_RESIDUAL = ("o_proj.weight", "down_proj.weight")
BUFFERS = (".rotary_emb.inv_freq",)


class Attention(nn.Module):
    """Causal self-attention with rotary positions; several query heads share a key-value head."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.window = layer, config.windows[layer]
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        width, size, bias = config.hidden_size, config.head_dim, config.attention_bias
        self.q_proj = nn.Linear(width, self.heads * size, bias)
        self.k_proj = nn.Linear(width, self.kv_heads * size, bias)
        self.v_proj = nn.Linear(width, self.kv_heads * size, bias)
        self.o_proj = nn.Linear(self.heads * size, width, config.output_bias)
        self.q_norm = nn.RMSNorm(size, config.rms_norm_eps) if config.query_norm else None
        self.k_norm = nn.RMSNorm(size, config.rms_norm_eps) if config.query_norm else None
        self.dropout = nn.Dropout(config.attention_dropout)

    def forward(
        self, x: Tensor, angles: Angles, cache: LayerCache | None, residual: Tensor
    ) -> Tensor:
        q = nn.split_heads(self.q_proj(x), self.heads)  # (B, H, T, D)
        k = nn.split_heads(self.k_proj(x), self.kv_heads)
        v = nn.split_heads(self.v_proj(x), self.kv_heads)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        out = nn.attend(
            angles.turn(q),
            angles.turn(k),
            v,
            layer=self.layer,
            cache=cache,
            window=self.window,
            dropout=self.dropout,
        )
        return self.o_proj(nn.merge_heads(out), residual)


class Block(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = nn.RMSNorm(width, eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(width, eps)
        self.mlp = nn.GatedFeedForward(
            width,
            config.intermediate_size,
            ACTIVATIONS[config.hidden_act],
            config.mlp_bias,
        )

    def forward(self, x: Tensor, angles: Angles, cache: LayerCache | None = None) -> Tensor:
        x = self.self_attn(self.input_layernorm(x), angles, cache, residual=x)
        return self.mlp(self.post_attention_layernorm(x), residual=x)


class Llama(Pretrained):
    """model(ids) gives logits; `loss` trains without holding them.

    Weights start as N(0, 0.02), those of projections into the residual stream smaller by
    sqrt(2 * layers), biases 0; drawn from `seed`. In training, attention_dropout acts.
    """

    def __init__(self, config: LlamaConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, self.rotary = config, config.rotary
        self.recompute = False  # run each block again in backward instead of keeping its insides
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else nn.Linear(config.hidden_size, config.vocab_size, False)
        if not nn.init_skipped():
            self.initialise(seed)

    def initialise(self, seed: int) -> None:
        """Draw all weights anew from `seed`."""
        generator = new_generator(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02
                if name.endswith(INTO_RESIDUAL):
                    std /= math.sqrt(2 * self.config.n_layer)
                parameter.data[...] = generator.normal(0.0, std, parameter.shape)
            else:
                parameter.data[...] = 1.0 if name.endswith("norm.weight") else 0.0

    @property
    def reads_whole(self) -> bool:
        """Whether the logits depend on the pieces in which a text enters the cache."""
        return self.rotary.depends_on_length

    @property
    def head(self) -> nn.Parameter:
        """(V, C), the embedding where they are tied."""
        return (self.embed_tokens if self.lm_head is None else self.lm_head).weight

    def features(self, ids: Any, cache: Any = None) -> Tensor:
        """What the head reads: ids (B, T) to (B, T, C). A cache shifts the positions."""
        kind, context = self.config.model_type, self.config.context
        if getattr(ids, "ndim", None) != 2:
            raise ValueError(f"{kind}: ids of shape {numpy.shape(ids)}, an array (B, T) is needed")
        start = 0 if cache is None else cache.length
        end = start + ids.shape[1]
        if end > context:
            raise ValueError(f"{kind}: position {end - 1} asked for, the model has {context}")
        angles = self.rotary.angles(start, end, self.norm.weight.data)
        x = self.embed_tokens(ids)
        for block in self.layers:
            if self.recompute and cache is None:
                x = checkpoint(lambda x, block=block: block(x, angles), x)
            else:
                x = block(x, angles, cache)
        return self.norm(x)

    def forward(self, ids: Any, cache: Any = None) -> Tensor:
        """Logits (B, T, V) for ids (B, T)."""
        return nn.linear(self.features(ids, cache), self.head)

    def next_logits(self, ids: Any, cache: Any = None) -> Tensor:
        """Logits (B, V) after the last id of each row."""
        return nn.linear(self.features(ids, cache)[:, -1], self.head)

    def loss(
        self, ids: Any, targets: Any, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> Tensor:
        """Cross-entropy of targets (B, T) in nats; -100 is ignored."""
        features = self.features(ids)
        return nn.linear_cross_entropy(features, self.head, targets, reduction, label_smoothing)


def to_files(state: dict[str, Array], config: LlamaConfig) -> dict[str, Array]:
    """Our names to Hugging Face's: `model.` before everything but the head."""
    return {
        name if name.startswith("lm_head.") else f"model.{name}": array
        for name, array in state.items()
    }


def from_files(arrays: dict[str, Array], config: LlamaConfig) -> dict[str, Array]:
    """The reverse of `to_files`; prefix optional, angle buffers and a tied head are dropped."""
    state = without_prefix(
        {name: array for name, array in arrays.items() if not name.endswith(BUFFERS)},
        "model.",
        config.model_type,
    )
    if config.tie_word_embeddings:
        tie(state, "lm_head.weight", "embed_tokens.weight", config.model_type)
    return state


FAMILY = Family(tuple(ARCHITECTURES), LlamaConfig, Llama, from_files, to_files)

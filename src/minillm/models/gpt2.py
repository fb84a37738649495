"""GPT-2 (Radford et al. 2019): learned positions, pre-norm blocks, GPT-2's GELU, tied head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy

from minillm import nn, ops
from minillm.arrays import Array, new_generator
from minillm.models.family import ACTIVATIONS, Family, tie
from minillm.models.pretrained import Pretrained
from minillm.nn.attention import LayerCache
from minillm.tensor import Tensor, checkpoint

MODEL_TYPE = "gpt2"
HEAD = "lm_head.weight"
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
BUFFERS = (".attn.bias", ".attn.masked_bias")
SWITCHES = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings")
DEFAULT_EOS = 50256  # what transformers takes where config.json names none


@dataclass(frozen=True)
class GPT2Config:
    """Sizes and settings; ValueError if they do not fit together.

    n_inner is the width between the two layers of a block's MLP, 4 n_embd if None. Scores are
    divided by sqrt(D) if scale_attn_weights, and by the number of the layer, counted from 1, if
    scale_attn_by_inverse_layer_idx. A head that is not tied to the embedding is lm_head.
    """

    kind: ClassVar[str] = "decoder"

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    dropout: float = 0.0
    layer_norm_epsilon: float = 1e-5
    activation_function: str = "gelu_new"
    eos_token_id: int | tuple[int, ...] | None = None
    n_inner: int | None = None
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        sizes = ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"]
        for name in sizes if self.n_inner is None else [*sizes, "n_inner"]:
            size = getattr(self, name)
            if type(size) is not int or size < 1:
                raise ValueError(f"gpt2: {name} is {size!r}, a whole number from 1 is needed")
        for name, low, high in (("dropout", 0.0, 1.0), ("layer_norm_epsilon", 0.0, math.inf)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not low <= value < high:
                raise ValueError(
                    f"gpt2: {name} is {value!r}, a number of at least {low} below {high} is needed"
                )
        for name in SWITCHES:
            if type(getattr(self, name)) is not bool:
                raise ValueError(
                    f"gpt2: {name} is {getattr(self, name)!r}, true or false is needed"
                )
        if self.n_embd % self.n_head:
            raise ValueError(
                f"gpt2: {self.n_head} heads do not divide the width {self.n_embd}, "
                f"a width that is a multiple of {self.n_head} is needed"
            )
        if self.activation_function not in ACTIVATIONS:
            raise ValueError(
                f"gpt2: activation {self.activation_function!r}, "
                f"one of {', '.join(ACTIVATIONS)} is needed"
            )

    @property
    def context(self) -> int:
        return self.n_positions

    @property
    def inner(self) -> int:
        return self.n_inner or 4 * self.n_embd

    @property
    def parameter_count(self) -> int:
        c, inner = self.n_embd, self.inner
        block = 4 * c * c + 2 * c * inner + inner + 9 * c
        tables = self.vocab_size * (1 if self.tie_word_embeddings else 2) + self.n_positions
        return tables * c + self.n_layer * block + 2 * c

    def scale(self, layer: int) -> float:
        """What the scores of a layer, counted from 0, are multiplied by."""
        scale = 1 / math.sqrt(self.n_embd // self.n_head) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json."""
        eos = self.eos_token_id
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": MODEL_TYPE,
            "vocab_size": self.vocab_size,
            "n_positions": self.n_positions,
            "n_ctx": self.n_positions,
            "n_embd": self.n_embd,
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "n_inner": self.n_inner,
            "resid_pdrop": self.dropout,
            "embd_pdrop": self.dropout,
            "attn_pdrop": 0.0,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "activation_function": self.activation_function,
            **{name: getattr(self, name) for name in SWITCHES},
            "bos_token_id": eos[0] if isinstance(eos, tuple) else eos,
            "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
            "torch_dtype": "float32",
        }

    @classmethod
    def from_hf(cls, content: dict[str, Any]) -> GPT2Config:
        """Read config.json; of the dropout rates, which only training uses, resid_pdrop for all.

        ValueError names a missing key or a setting that is not implemented."""
        if content.get("add_cross_attention", False) is not False:
            raise ValueError(
                f"gpt2: add_cross_attention={content['add_cross_attention']!r} is not implemented"
            )
        sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
        optional = ("layer_norm_epsilon", "activation_function", "n_inner", *SWITCHES)
        try:
            return cls(
                **{name: content[name] for name in sizes},
                dropout=content.get("resid_pdrop", 0.1),
                eos_token_id=cls._eos(content),
                **{name: content[name] for name in optional if name in content},
            )
        except KeyError as error:
            raise ValueError(f"gpt2: config.json has no {error}") from error
        except TypeError as error:
            raise ValueError(
                f"gpt2: config.json holds a value of a wrong kind ({error})"
            ) from error

    @staticmethod
    def _eos(content: dict[str, Any]) -> int | tuple[int, ...] | None:
        eos = content.get("eos_token_id", DEFAULT_EOS)
        if isinstance(eos, list):
            return tuple(eos)
        return None if eos == DEFAULT_EOS and eos >= content["vocab_size"] else eos


class Attention(nn.Module):
    """Causal self-attention; queries, keys and values from one product."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.scale = layer, config.n_head, config.scale(layer)
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(
        self, x: Tensor, cache: LayerCache | None, residual: Tensor | None = None
    ) -> Tensor:
        width = x.shape[-1]
        joint = self.c_attn(x)  # (B, T, 3C)
        if cache is None:
            mixed = ops.packed_attention(joint, heads=self.heads, scale=self.scale)
            return self.c_proj(mixed, residual)
        q, k, v = (
            nn.split_heads(joint[..., start : start + width], self.heads)  # (B, H, T, D)
            for start in (0, width, 2 * width)
        )
        out = nn.attend(q, k, v, layer=self.layer, cache=cache, scale=self.scale)
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

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        if self.dropout.active:
            x = x + self.dropout(self.attn(self.ln_1(x), cache))
            return x + self.dropout(self.mlp(self.ln_2(x)))
        x = self.attn(self.ln_1(x), cache, residual=x)
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

    def features(self, ids: Any, cache: Any = None) -> Tensor:
        """What the head reads: ids (B, T) to (B, T, C). A cache shifts the positions."""
        if getattr(ids, "ndim", None) != 2:
            raise ValueError(f"gpt2: ids of shape {numpy.shape(ids)}, an array (B, T) is needed")
        start = 0 if cache is None else cache.length
        end = start + ids.shape[1]
        if end > self.config.n_positions:
            raise ValueError(
                f"gpt2: position {end - 1} asked for, the model has {self.config.n_positions}"
            )
        x = self.dropout(self.wte(ids) + self.wpe(numpy.arange(start, end)))
        for block in self.h:
            x = checkpoint(block, x) if self.recompute and cache is None else block(x, cache)
        return self.ln_f(x)

    @property
    def head(self) -> nn.Parameter:
        """The weight (V, C) that gives logits."""
        return (self.wte if self.config.tie_word_embeddings else self.lm_head).weight

    def forward(self, ids: Any, cache: Any = None) -> Tensor:
        """Logits (B, T, V) for ids (B, T)."""
        return ops.linear(self.features(ids, cache), self.head)

    def next_logits(self, ids: Any, cache: Any = None) -> Tensor:
        """Logits (B, V) after the last id of each row."""
        return ops.linear(self.features(ids, cache)[:, -1], self.head)

    def loss(self, ids: Any, targets: Any, reduction: str = "mean") -> Tensor:
        """Cross-entropy of targets (B, T) in nats; -100 is ignored."""
        x = self.features(ids)
        return ops.linear_cross_entropy(x, self.head, targets, reduction=reduction)


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
    state = {name.removeprefix("transformer."): array for name, array in arrays.items()}
    state = {name: array for name, array in state.items() if not name.endswith(BUFFERS)}
    joint = state.get("h.0.attn.c_attn.weight")
    if joint is None or tuple(joint.shape) != (3 * config.n_embd, config.n_embd):
        for name in [name for name in state if name.endswith(TRANSPOSED)]:
            state[name] = state[name].T
    if config.tie_word_embeddings:
        tie(state, HEAD, "wte.weight", "gpt2")
    return state


FAMILY = Family((MODEL_TYPE,), GPT2Config, GPT2, from_files, to_files)

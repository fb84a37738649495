"""Settings of GPT-2: what config.json says, and what of it is not implemented."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from minillm.models.family import ACTIVATIONS, check_flags, check_numbers, check_sizes

MODEL_TYPE = "gpt2"
SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
FLAGS = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings")
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
        check_sizes("gpt2", self, SIZES + ("n_inner",) * (self.n_inner is not None))
        check_numbers("gpt2", self, {"dropout": 1.0, "layer_norm_epsilon": math.inf})
        check_flags("gpt2", self, FLAGS)
        eos = self.eos_token_id
        if not all(type(id) is int for id in (eos if isinstance(eos, tuple) else (eos or 0,))):
            raise ValueError(f"gpt2: eos_token_id is {eos!r}, an id or several are needed")
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
            **{name: getattr(self, name) for name in FLAGS},
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
        optional = ("layer_norm_epsilon", "activation_function", "n_inner", *FLAGS)
        try:
            return cls(
                **{name: content[name] for name in SIZES},
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
            return tuple(eos) or None
        return None if eos == DEFAULT_EOS and eos >= content["vocab_size"] else eos

"""The configuration of a T5, under transformers' names."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy

from minillm import nn
from minillm.models.encoder_decoder import check_tokens
from minillm.models.family import ACTIVATIONS, check_flags, check_numbers, check_sizes

MODEL_TYPE = "t5"
ARCHITECTURES = ("T5ForConditionalGeneration", "T5WithLMHeadModel")
REFUSED = {  # settings that change the computation, with the value that is implemented
    "is_encoder_decoder": True,
    "is_decoder": False,
    "tie_encoder_decoder": False,
    "quantization_config": None,
}
SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads",
         "relative_attention_num_buckets", "relative_attention_max_distance")  # fmt: skip


@dataclass(frozen=True)
class T5Config:
    """Sizes and settings under transformers' names; ValueError if they do not fit together.

    feed_forward_proj is an activation, or "gated-" and one; "gated-gelu" means gelu_new. Where
    outputs are not scaled the head has a weight of its own: transformers 5 writes
    tie_word_embeddings=true for such models too.
    """

    kind: ClassVar[str] = "encoder-decoder"
    context: ClassVar[int | None] = None  # relative positions have no end

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None  # as many as num_layers
    num_heads: int = 8
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool = True
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1
    initializer_factor: float = 1.0
    pad_token_id: int = 0
    eos_token_id: int | tuple[int, ...] | None = 1
    decoder_start_token_id: int = 0

    def __post_init__(self) -> None:
        if self.num_decoder_layers is None:
            object.__setattr__(self, "num_decoder_layers", self.num_layers)
        check_sizes("t5", self, SIZES)
        check_flags("t5", self, ("tie_word_embeddings", "scale_decoder_outputs"))
        limits = {
            "dropout_rate": 1.0,
            "layer_norm_epsilon": math.inf,
            "initializer_factor": math.inf,
        }
        check_numbers("t5", self, limits)
        check_tokens("t5", self, self.vocab_size)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"t5: feed_forward_proj {self.feed_forward_proj!r}, one of "
                f"{', '.join(ACTIVATIONS)}, alone or after 'gated-', is needed"
            )
        for bidirectional in (True, False):
            nn.relative_position_bucket(
                numpy.zeros(0),
                bidirectional=bidirectional,
                num_buckets=self.relative_attention_num_buckets,
                max_distance=self.relative_attention_max_distance,
            )

    @property
    def target_size(self) -> int:
        """Rows of logits: source and target share one vocabulary."""
        return self.vocab_size

    @property
    def n_layer(self) -> int:
        """Layers of the decoder, those a cache holds keys and values of."""
        return self.num_decoder_layers or 0

    @property
    def gated(self) -> bool:
        return str(self.feed_forward_proj).startswith("gated-")

    @property
    def activation(self) -> str:
        name = str(self.feed_forward_proj).removeprefix("gated-")
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else name

    @property
    def own_head(self) -> bool:
        return not (self.tie_word_embeddings and self.scale_decoder_outputs)

    @property
    def parameter_count(self) -> int:
        c, inner = self.d_model, self.num_heads * self.d_kv
        attention = 4 * c * inner + c
        feed_forward = (3 if self.gated else 2) * c * self.d_ff + c
        return (
            (2 if self.own_head else 1) * self.vocab_size * c
            + self.num_layers * (attention + feed_forward)
            + self.n_layer * (2 * attention + feed_forward)
            + 2 * self.relative_attention_num_buckets * self.num_heads
            + 2 * c
        )

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            "architectures": [ARCHITECTURES[0]],
            "model_type": MODEL_TYPE,
            **asdict(self),
            "tie_word_embeddings": not self.own_head,
            "is_encoder_decoder": True,
            "torch_dtype": "float32",
        }

    @classmethod
    def from_hf(cls, content: dict[str, Any]) -> T5Config:
        """Read config.json with transformers' defaults; no start token means the padding token.

        ValueError names a setting that is not implemented."""
        for name, implemented in REFUSED.items():
            if content.get(name, implemented) not in (implemented, None):
                raise ValueError(f"t5: {name}={content[name]!r} is not implemented")
        classes = content.get("architectures") or [ARCHITECTURES[0]]
        if not isinstance(classes, list) or not any(name in ARCHITECTURES for name in classes):
            raise ValueError(
                f"t5: architectures={classes!r} is not implemented, {ARCHITECTURES[0]} is needed"
            )
        names = [field.name for field in fields(cls)]
        values = {name: content[name] for name in names if name in content}
        values.setdefault("scale_decoder_outputs", values.get("tie_word_embeddings", True))
        if values.get("decoder_start_token_id") is None:
            values["decoder_start_token_id"] = values.get("pad_token_id", 0)
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = tuple(values["eos_token_id"])
        config = cls(**values)
        for name, derived in (("dense_act_fn", config.activation), ("is_gated_act", config.gated)):
            if content.get(name, derived) != derived:
                raise ValueError(
                    f"t5: {name}={content[name]!r} with feed_forward_proj="
                    f"{config.feed_forward_proj!r} is not implemented"
                )
        return config

"""The configuration of a plain encoder-decoder, and its config.json.

No library has this family in its own layout, so minillm writes model_type "transformer": the
arguments of torch.nn.Transformer under their names, and what that leaves to the user:

    vocab_size, target_vocab_size      rows of the two embeddings
    final_norm                         a norm after the last layer of each stack
    scale_embeddings                   embeddings times sqrt(d_model)
    positions, first_position          "interleaved" or "halves" (nn.sinusoidal_positions), from
                                       which position on
    share_embeddings                   one embedding for source and target
    tie_word_embeddings, output_bias   logits from the target embedding, and with a bias
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy

from minillm import nn
from minillm.models.encoder_decoder import check_tokens
from minillm.models.family import check_flags, check_numbers, check_sizes

MODEL_TYPE = "transformer"
HARMLESS = ("architectures", "model_type", "is_encoder_decoder", "torch_dtype", "dtype",
            "bos_token_id", "transformers_version", "_name_or_path")  # fmt: skip
SIZES = ("vocab_size", "target_vocab_size", "d_model", "nhead", "num_encoder_layers",
         "num_decoder_layers", "dim_feedforward")  # fmt: skip
FLAGS = ("norm_first", "final_norm", "scale_embeddings", "share_embeddings",
         "tie_word_embeddings", "output_bias")  # fmt: skip


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and settings; the defaults are the paper's. ValueError if they do not fit together.

    target_vocab_size is vocab_size if None; final_norm is norm_first if None, as residuals that
    were normalised before each part only need a norm at the end.
    """

    kind: ClassVar[str] = "encoder-decoder"
    context: ClassVar[int | None] = None  # sines have no end

    vocab_size: int
    target_vocab_size: int | None = None
    d_model: int = 512
    nhead: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    dim_feedforward: int = 2048
    dropout: float = 0.1
    activation: str = "relu"
    layer_norm_eps: float = 1e-5
    norm_first: bool = False
    final_norm: bool | None = None
    scale_embeddings: bool = True
    positions: str = "interleaved"
    first_position: int = 0
    share_embeddings: bool = False
    tie_word_embeddings: bool = False
    output_bias: bool = True
    pad_token_id: int = 0
    eos_token_id: int | tuple[int, ...] | None = None
    decoder_start_token_id: int = 0

    def __post_init__(self) -> None:
        if self.target_vocab_size is None:
            object.__setattr__(self, "target_vocab_size", self.vocab_size)
        if self.final_norm is None:
            object.__setattr__(self, "final_norm", self.norm_first)
        check_sizes("transformer", self, SIZES)
        check_flags("transformer", self, FLAGS)
        check_numbers("transformer", self, {"dropout": 1.0, "layer_norm_eps": math.inf})
        check_tokens("transformer", self, self.target_size)
        if self.activation not in tuple(nn.ACTIVATIONS):
            raise ValueError(
                f"transformer: activation {self.activation!r}, one of "
                f"{', '.join(nn.ACTIVATIONS)} is needed"
            )
        if self.d_model % self.nhead:
            raise ValueError(
                f"transformer: {self.nhead} heads do not divide the width {self.d_model}, "
                f"a width that is a multiple of {self.nhead} is needed"
            )
        if self.share_embeddings and self.target_size != self.vocab_size:
            raise ValueError(
                f"transformer: vocabularies of {self.vocab_size} and {self.target_size} share one "
                "embedding, equal sizes are needed"
            )
        if type(self.first_position) is not int or self.first_position < 0:
            raise ValueError(
                f"transformer: first_position is {self.first_position!r}, 0 or more is needed"
            )
        nn.sinusoidal_positions(numpy.zeros(0), self.d_model, self.positions)

    @property
    def target_size(self) -> int:
        return self.target_vocab_size or 0

    @property
    def n_layer(self) -> int:
        """Layers of the decoder, those a cache holds keys and values of."""
        return self.num_decoder_layers

    @property
    def parameter_count(self) -> int:
        c, hidden = self.d_model, self.dim_feedforward
        attention = 4 * c * c + 4 * c
        feed_forward = 2 * c * hidden + hidden + c
        rows = self.vocab_size
        rows += 0 if self.share_embeddings else self.target_size
        rows += 0 if self.tie_word_embeddings else self.target_size
        return (
            rows * c
            + (self.target_size if self.output_bias else 0)
            + self.num_encoder_layers * (attention + feed_forward + 4 * c)
            + self.num_decoder_layers * (2 * attention + feed_forward + 6 * c)
            + (4 * c if self.final_norm else 0)
        )

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            "architectures": ["Transformer"],
            "model_type": MODEL_TYPE,
            **asdict(self),
            "is_encoder_decoder": True,
            "torch_dtype": "float32",
        }

    @classmethod
    def from_hf(cls, content: dict[str, Any]) -> TransformerConfig:
        """Read config.json. ValueError names a key that is missing or not known."""
        names = [field.name for field in fields(cls)]
        unknown = sorted(content.keys() - {*names, *HARMLESS})
        if unknown:
            raise ValueError(f"transformer: {unknown[0]} in config.json is not known")
        values = {name: content[name] for name in names if name in content}
        if "vocab_size" not in values:
            raise ValueError("transformer: config.json has no 'vocab_size'")
        if isinstance(values.get("eos_token_id"), list):
            values["eos_token_id"] = tuple(values["eos_token_id"])
        return cls(**values)

"""RoBERTa (Liu et al. 2019): BERT with positions counted from the padding id, and other heads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from minillm.models.bert import NAMES as BERT_NAMES
from minillm.models.encoder import Encoder
from minillm.models.encoder_config import EncoderConfig
from minillm.models.encoder_files import from_files, to_files
from minillm.models.family import Family

NAMES = BERT_NAMES._replace(
    prefix="roberta.",
    pooler={"features": "pooler.dense", "sequence": "classifier.dense"},
    dense="lm_head.dense",
    norm="lm_head.layer_norm",
    decoder="lm_head.decoder",
    bias=("lm_head.decoder.bias", "lm_head.bias"),
    classifier={
        "sequence": "classifier.out_proj",
        "token": "classifier",
        "span": "qa_outputs",
    },
    unused=(),
)


@dataclass(frozen=True)
class RobertaConfig(EncoderConfig):
    """RoBERTa's settings. Of the positions, the first pad_token_id + 1 are never reached."""

    model_type: ClassVar[str] = "roberta"
    family: ClassVar[str] = "Roberta"
    pooling: ClassVar[dict[str, str]] = {"features": "tanh", "sequence": "tanh"}

    vocab_size: int = 50265
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad_token_id is None or self.context < 1:
            raise ValueError(
                f"{self.model_type}: pad_token_id is {self.pad_token_id}, an id from 0 and more "
                f"than 1 below max_position_embeddings={self.max_position_embeddings} is needed"
            )

    @property
    def context(self) -> int:
        return self.max_position_embeddings - (self.pad_token_id or 0) - 1


class Roberta(Encoder):
    """RobertaModel or one with the head of a masked language model or a classifier."""

    dropout_before_pooler = True
    masked_activation = "gelu"

    @property
    def position_padding(self) -> int | None:
        return self.config.pad_token_id

    def positions(self, ids: Any) -> Any:
        """Text counts on from the padding id, whatever padding stands between."""
        padding = self.config.pad_token_id
        text = ids != padding
        return text.cumsum(axis=1) * text + padding


FAMILY = Family(
    ("roberta",), RobertaConfig, Roberta, partial(from_files, NAMES), partial(to_files, NAMES)
)

"""DistilBERT (Sanh et al. 2019): BERT without segments and pooler, under other names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from minillm.models.encoder import Encoder
from minillm.models.encoder_config import EncoderConfig
from minillm.models.encoder_files import Names, from_files, to_files
from minillm.models.family import Family

NAMES = Names(
    prefix="distilbert.",
    layer="transformer.layer.",
    joint=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    parts={
        "projection": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "feed_forward.first": "ffn.lin1",
        "feed_forward.second": "ffn.lin2",
        "output_norm": "output_layer_norm",
    },
    pooler={"sequence": "pre_classifier"},
    dense="vocab_transform",
    norm="vocab_layer_norm",
    decoder="vocab_projector",
    bias=("vocab_projector.bias",),
    classifier={"sequence": "classifier", "token": "classifier", "span": "qa_outputs"},
)


@dataclass(frozen=True)
class DistilBertConfig(EncoderConfig):
    """DistilBERT's settings, spelled as in BERT."""

    model_type: ClassVar[str] = "distilbert"
    family: ClassVar[str] = "DistilBert"
    pooling: ClassVar[dict[str, str]] = {"sequence": "relu"}
    keys: ClassVar[dict[str, str | None]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
        "type_vocab_size": None,
        "layer_norm_eps": None,
    }

    num_hidden_layers: int = 6
    type_vocab_size: int = 0
    classifier_dropout: float | None = 0.2
    qa_dropout: float = 0.1

    @property
    def head_dropout(self) -> float:
        match self.task:
            case "sequence":
                return super().head_dropout
            case "span":
                return self.qa_dropout
        return self.hidden_dropout_prob


class DistilBert(Encoder):
    """DistilBertModel or one with the head of a masked language model or a classifier."""


FAMILY = Family(
    ("distilbert",),
    DistilBertConfig,
    DistilBert,
    partial(from_files, NAMES),
    partial(to_files, NAMES),
)

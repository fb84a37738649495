"""BERT (Devlin et al. 2018): masked language models, classifiers and sentence encoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from minillm.models.encoder import Encoder
from minillm.models.encoder_config import EncoderConfig
from minillm.models.encoder_files import Names, from_files, to_files
from minillm.models.family import Family

PARTS = {
    "projection": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.first": "intermediate.dense",
    "feed_forward.second": "output.dense",
    "output_norm": "output.LayerNorm",
}
NAMES = Names(
    prefix="bert.",
    layer="encoder.layer.",
    joint=("attention.self.query", "attention.self.key", "attention.self.value"),
    parts=PARTS,
    pooler={"features": "pooler.dense", "sequence": "bert.pooler.dense"},
    dense="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    decoder="cls.predictions.decoder",
    bias=("cls.predictions.decoder.bias", "cls.predictions.bias"),
    classifier={"sequence": "classifier", "token": "classifier", "span": "qa_outputs"},
    unused=("cls.seq_relationship.",),
)


@dataclass(frozen=True)
class BertConfig(EncoderConfig):
    """BERT's settings; the defaults are those of bert-base-uncased."""

    model_type: ClassVar[str] = "bert"
    family: ClassVar[str] = "Bert"
    pooling: ClassVar[dict[str, str]] = {"features": "tanh", "sequence": "tanh"}


class Bert(Encoder):
    """BertModel or one with the head of a masked language model or a classifier."""


FAMILY = Family(("bert",), BertConfig, Bert, partial(from_files, NAMES), partial(to_files, NAMES))

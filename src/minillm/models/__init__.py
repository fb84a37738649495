"""The model families by their `model_type`. A family is one file and one line here."""

from minillm.models import bert, distilbert, gpt2, llama, roberta, t5, transformer, xlm_roberta
from minillm.models.bert import Bert, BertConfig
from minillm.models.distilbert import DistilBert, DistilBertConfig
from minillm.models.family import Family
from minillm.models.gpt2 import GPT2
from minillm.models.gpt2_config import GPT2Config
from minillm.models.llama import Llama, LlamaConfig
from minillm.models.roberta import Roberta, RobertaConfig
from minillm.models.t5 import T5
from minillm.models.t5_config import T5Config
from minillm.models.transformer import Transformer
from minillm.models.transformer_config import TransformerConfig
from minillm.models.xlm_roberta import XLMRobertaConfig

FAMILIES: dict[str, Family] = {
    kind: module.FAMILY
    for module in (gpt2, llama, bert, roberta, xlm_roberta, distilbert, t5, transformer)
    for kind in module.FAMILY.model_types
}

__all__ = [
    "FAMILIES",
    "GPT2",
    "T5",
    "Bert",
    "BertConfig",
    "DistilBert",
    "DistilBertConfig",
    "Family",
    "GPT2Config",
    "Llama",
    "LlamaConfig",
    "Roberta",
    "RobertaConfig",
    "T5Config",
    "Transformer",
    "TransformerConfig",
    "XLMRobertaConfig",
]

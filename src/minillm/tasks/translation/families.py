"""The encoder-decoders that can be trained to translate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from minillm import nn
from minillm.models import T5, T5Config, Transformer, TransformerConfig
from minillm.models.t5 import Attention
from minillm.tasks.translation.settings import TranslationSettings
from minillm.tokenizers import Tokenizer


class Family(NamedTuple):
    """Its name for people, the configuration for settings that leave nothing open, the model."""

    name: str
    config: Callable[[TranslationSettings, Tokenizer], Any]
    model: Callable[..., Any]


def transformer(settings: TranslationSettings, tokenizer: Tokenizer) -> TransformerConfig:
    """Norms before each part, one embedding for both sides and the logits."""
    s: Any = settings
    return TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=s.width,
        nhead=s.heads,
        num_encoder_layers=s.layers,
        num_decoder_layers=s.layers,
        dim_feedforward=4 * s.width,
        dropout=s.dropout,
        norm_first=True,
        share_embeddings=True,
        tie_word_embeddings=True,
        output_bias=False,
        **control_tokens(tokenizer),
    )


def t5(settings: TranslationSettings, tokenizer: Tokenizer) -> T5Config:
    s: Any = settings
    return T5Config(
        vocab_size=tokenizer.vocab_size,
        d_model=s.width,
        d_kv=s.width // s.heads,
        d_ff=4 * s.width,
        num_layers=s.layers,
        num_heads=s.heads,
        dropout_rate=s.dropout,
        **control_tokens(tokenizer),
    )


def control_tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    """The decoder begins with the padding token, as T5's does."""
    pad = tokenizer.role_ids["pad"]
    return {
        "pad_token_id": pad,
        "decoder_start_token_id": pad,
        "eos_token_id": tokenizer.eos_id,
    }


FAMILIES = {
    "transformer": Family("Transformer", transformer, Transformer),
    "t5": Family("T5", t5, T5),
}


def undrop(model: Any) -> None:
    """Attention weights are not dropped: that would take attention step by step."""
    for module in model.modules():
        if isinstance(module, Attention | nn.MultiheadAttention):
            module.dropout.p = 0.0

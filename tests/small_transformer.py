"""Two small Transformers whose weights are a formula, the same everywhere, far from their start."""

import numpy as np

from minillm import no_grad
from minillm.models import Transformer, TransformerConfig

SIZES = {"vocab_size": 13, "d_model": 12, "nhead": 3, "num_encoder_layers": 2,
         "num_decoder_layers": 2, "dim_feedforward": 10, "dropout": 0.0,
         "eos_token_id": 2, "decoder_start_token_id": 1}  # fmt: skip
KINDS = {
    "paper": {"final_norm": True, "share_embeddings": True, "tie_word_embeddings": True},
    "norm first": {"norm_first": True, "target_vocab_size": 11, "activation": "gelu",
                   "num_decoder_layers": 1, "positions": "halves", "first_position": 1},
}  # fmt: skip
IDS = np.array([[1, 5, 12, 0, 5, 7, 3, 8, 4], [2, 2, 9, 11, 4, 0, 0, 0, 0]])
MASK = np.array([[1] * 9, [1] * 5 + [0] * 4])
TARGETS = np.array([[5, 10, 0, -100, 7, 3, 1], [2, 9, 10, 4, 0, -100, 8]])


def small(kind="paper", **options):
    model = Transformer(TransformerConfig(**SIZES | KINDS[kind] | options))
    with no_grad():
        for place, (name, parameter) in enumerate(model.named_parameters(), 1):
            wave = np.sin(np.arange(parameter.size) ** 2 * 0.1 + place).reshape(parameter.shape)
            scale = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(scale + 0.5 * wave)
    return model.eval()

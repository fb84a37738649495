"""Two small T5s whose weights are a formula, the same everywhere and far from their start."""

import numpy as np

from minillm import no_grad
from minillm.models import T5, T5Config

SIZES = {"vocab_size": 13, "d_model": 12, "d_kv": 5, "d_ff": 10, "num_layers": 2, "num_heads": 3,
         "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6,
         "dropout_rate": 0.0}  # fmt: skip
VERSIONS = {
    "v1.0": {"decoder_start_token_id": 2, "pad_token_id": 3},
    "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
             "scale_decoder_outputs": False, "num_decoder_layers": 1},
}  # fmt: skip
IDS = np.array([[1, 5, 12, 0, 5, 7, 3, 8, 4], [2, 2, 9, 11, 4, 0, 0, 0, 0]])
MASK = np.array([[1] * 9, [1] * 5 + [0] * 4])
TARGETS = np.array([[5, 12, 0, -100, 7, 3, 1], [2, 9, 11, 4, 0, -100, 8]])


def small(version="v1.0", **options):
    model = T5(T5Config(**SIZES | VERSIONS[version] | options))
    with no_grad():
        for place, parameter in enumerate(model.parameters(), 1):
            wave = np.sin(np.arange(parameter.size) ** 2 * 0.1 + place).reshape(parameter.shape)
            parameter.copy_(0.4 * wave if parameter.ndim == 2 else 1 + 0.5 * wave)
    return model.eval()

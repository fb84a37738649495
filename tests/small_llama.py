"""Small members of the Llama family whose weights are a formula, far from their start."""

import numpy as np

from minillm import no_grad
from minillm.models import Llama, LlamaConfig

LENGTH = 24  # beyond the original positions of the scaled kinds below, and beyond the windows
SIZES = {
    "vocab_size": 17,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
}
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
FACTORS = {"short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [1.5, 2.0, 4.0, 7.0]}
BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


def rope(kind, theta=500.0, **settings):
    return {"head_dim": 8, "rope_theta": theta, "rope_scaling": {"rope_type": kind, **settings}}


CASES = {  # what config.json says beside SIZES
    "llama": {"head_dim": 8, "hidden_act": "silu", "rms_norm_eps": 1e-3},
    "tied": {"head_dim": 6, "tie_word_embeddings": True, "num_key_value_heads": 4},
    "biases": {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu", "head_dim": 4}
    | {"num_key_value_heads": 1},
    "linear": rope("linear", factor=4.0) | {"hidden_act": "relu"},
    "dynamic": rope("dynamic", factor=2.5) | {"max_position_embeddings": 10},
    "yarn": rope("yarn", factor=4.0, original_max_position_embeddings=10),
    "yarn, every setting": rope(
        "yarn", 3e3, factor=8.0, beta_fast=5.0, beta_slow=0.25, mscale=1.5, mscale_all_dim=0.7,
        truncate=False, original_max_position_embeddings=30,
    ),
    "yarn, long ramp": rope("yarn", 50.0, factor=4.0, beta_slow=0.01),
    "yarn, own attention factor": rope("yarn", factor=2.0, attention_factor=1.25),
    "longrope": rope("longrope", **FACTORS, original_max_position_embeddings=10),
    "longrope, short": rope("longrope", **FACTORS, factor=4.0, attention_factor=1.1),
    "llama3": rope("llama3", factor=8.0, **BANDS, original_max_position_embeddings=20),
    "rope_parameters": {
        "head_dim": 8,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 50.0, "factor": 4.0, **BANDS},
        "original_max_position_embeddings": 16,
    },
    "mistral": {"model_type": "mistral", "head_dim": 4, "sliding_window": 7},
    "mistral, no window": {"model_type": "mistral", "sliding_window": None, "head_dim": None}
    | {"hidden_size": 16, "hidden_act": "gelu_pytorch_tanh"},
    "qwen2": {"model_type": "qwen2", "hidden_size": 16, "tie_word_embeddings": True},
    "qwen2, window": {"model_type": "qwen2", "hidden_size": 16, **QWEN_WINDOW},
    "qwen3": {"model_type": "qwen3", "head_dim": 8, "attention_bias": True},
    "qwen3, window": {"model_type": "qwen3", "head_dim": 4, **QWEN_WINDOW}
    | {"layer_types": ["sliding_attention", "full_attention"]},
}  # fmt: skip
IDS = np.arange(2 * LENGTH).reshape(2, LENGTH) ** 2 * 5 % 17
TARGETS = np.where(IDS[:, ::-1] == 4, -100, IDS[:, ::-1])


def content(case):
    return {"model_type": "llama"} | SIZES | CASES[case]


def small(case="llama", **options):
    model = Llama(LlamaConfig.from_hf(content(case) | options))
    with no_grad():
        for place, parameter in enumerate(model.parameters(), 1):
            wave = np.sin(np.arange(parameter.size) ** 2 * 0.1 + place).reshape(parameter.shape)
            parameter.copy_(parameter.data.mean().round() + 0.5 * wave)
    return model.eval()


def logits(model, ids=IDS):
    with no_grad():
        return model(ids).numpy()

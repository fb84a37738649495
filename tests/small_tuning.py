"""A base small enough to be tuned in tests: bytes, a chat template, GPT-2 or Llama."""

import json
from pathlib import Path

import numpy as np

from minillm.models import GPT2, GPT2Config, Llama, LlamaConfig
from minillm.models.folder import save_model
from minillm.tokenizers import ByteTokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
WORDS = ("red", "green", "blue", "black", "white", "grey")


def tokenizer():
    found = ByteTokenizer()
    found.chat_template = TEMPLATE
    return found


def llama(seed=3, **options):
    sizes = {
        "vocab_size": 257, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96,
        "tie_word_embeddings": True, "head_dim": 8, "eos_token_id": 256,
    }  # fmt: skip
    return Llama(LlamaConfig.from_hf({"model_type": "llama", **sizes, **options}), seed).eval()


def gpt2(seed=3):
    config = GPT2Config(
        vocab_size=257, n_positions=96, n_embd=32, n_layer=2, n_head=4, eos_token_id=256
    )
    return GPT2(config, seed).eval()


def base(folder: Path, model=None) -> Path:
    """A folder that holds a model with its tokenizer."""
    save_model(folder, model or llama(), tokenizer())
    return folder


def talks(path: Path, count: int = 20) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for n in range(count):
        word = WORDS[rng.integers(len(WORDS))]
        question, answer = f"{n} what is {word}?", f"{word} is a colour"
        messages = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def preferences(path: Path, count: int = 24) -> Path:
    rows = [
        {
            "instruction": f"Say {n}.",
            "chosen": f"Gladly: {n}",
            "rejected": f"No way: {n}",
        }
        for n in range(count)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path

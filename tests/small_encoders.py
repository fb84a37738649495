"""Small BERTs, RoBERTas and DistilBERTs whose weights are a formula, the same everywhere."""

import numpy as np

from minillm import no_grad
from minillm.models import FAMILIES

KINDS = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
TASKS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)
SIZES = {
    "vocab_size": 11,
    "hidden_size": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 9,
    "pad_token_id": 1,
    "labels": ("no", "yes", "perhaps"),
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
IDS = np.array([[3, 5, 10, 2, 1, 1], [4, 9, 4, 0, 7, 8]])
MASK = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 1]])
SEGMENTS = np.array([[0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1]])
WORDS = np.array([[-100, 5, -100, 7, -100, -100], [4, -100, 3, -100, -100, 0]])  # targets
SPANS = np.array([[1, 3], [2, 4]])
CLASSES = np.array([[0, 2, -100, 1, -100, -100], [1, 1, 0, -100, 2, 2]])


def small(kind, task="Model", **options):
    family = FAMILIES[kind]
    if task == "ForQuestionAnswering":
        options = {"labels": ("first", "last")} | options
    model = family.model(family.config(**SIZES | {"architecture": KINDS[kind] + task} | options))
    with no_grad():
        for place, (name, parameter) in enumerate(model.named_parameters(), 1):
            wave = np.sin(np.arange(parameter.size) ** 2 * 0.1 + place).reshape(parameter.shape)
            start = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(start + 0.5 * wave)
    return model.eval()


def batch(kind):
    """ids, mask and segments."""
    return IDS, MASK, None if kind == "distilbert" else SEGMENTS


def targets(task):
    several = {
        "ForMaskedLM": WORDS,
        "ForTokenClassification": CLASSES,
        "ForQuestionAnswering": SPANS,
    }
    return several.get(task, np.array([2, 0]))

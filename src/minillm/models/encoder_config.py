"""What BERT, RoBERTa and DistilBERT are built from: sizes, settings, and their config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from minillm.models.family import ACTIVATIONS, check_numbers

TASKS = {  # what follows the name of the family in `architectures`
    "Model": "features",
    "ForMaskedLM": "masked",
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "span",
}
REFUSED = {  # settings that change the computation, with the values that are implemented
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "position_embedding_type": ("absolute", None),
    "pruned_heads": ({}, None),
    "per_layer_config": ({}, None),
    "quantization_config": (None,),
}
PROBLEMS = (None, "regression", "single_label_classification", "multi_label_classification")
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and settings; ValueError if they do not fit together.

    The defaults are transformers'. `architecture` says what the model returns: hidden states, the
    logits of a masked language model, those of a classifier of texts or tokens, or where a span of
    tokens begins and ends.
    """

    kind: ClassVar[str] = "encoder"
    model_type: ClassVar[str]
    family: ClassVar[str]  # how the names of its architectures begin
    keys: ClassVar[dict[str, str | None]] = {}  # where config.json spells a field otherwise, or not
    pooling: ClassVar[dict[str, str]] = {}  # the pooler's activation, by the tasks that have one

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    classifier_dropout: float | None = None
    tie_word_embeddings: bool = True
    problem_type: str | None = None
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    add_pooling_layer: bool = True
    architecture: str = ""

    def __post_init__(self) -> None:
        if not self.architecture:
            object.__setattr__(self, "architecture", f"{self.family}Model")
        check(self)

    @property
    def n_layer(self) -> int:
        return self.num_hidden_layers

    @property
    def context(self) -> int:
        return self.max_position_embeddings

    @property
    def task(self) -> str:
        """ "features", "masked", "sequence", "token" or "span"."""
        return TASKS[self.architecture.removeprefix(self.family)]

    @property
    def pooler(self) -> str | None:
        """The activation of the layer on the first token, None where there is no such layer."""
        if self.task == "features" and not self.add_pooling_layer:
            return None
        return self.pooling.get(self.task)

    @property
    def head_dropout(self) -> float:
        """Dropout before the classifier."""
        if self.task == "span":
            return 0.0
        dropout = self.classifier_dropout
        return self.hidden_dropout_prob if dropout is None else dropout

    @property
    def parameter_count(self) -> int:
        c, hidden, vocabulary = self.hidden_size, self.intermediate_size, self.vocab_size
        square = c * c + c
        layer = 4 * square + 2 * c * hidden + hidden + c + 4 * c
        count = (vocabulary + self.max_position_embeddings + self.type_vocab_size) * c + 2 * c
        count += self.num_hidden_layers * layer + (square if self.pooler else 0)
        if self.task == "masked":
            count += square + 2 * c + vocabulary
            count += 0 if self.tie_word_embeddings else vocabulary * c
        elif self.task != "features":
            count += (c + 1) * len(self.labels)
        return count

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json."""
        content: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
        }
        for name in stored(type(self)):
            key = self.keys.get(name, name)
            if key is not None:
                content[key] = getattr(self, name)
        names = dict(enumerate(self.labels))
        content["id2label"] = {str(place): label for place, label in names.items()}
        content["label2id"] = {label: place for place, label in names.items()}
        return content | {"torch_dtype": "float32"}

    @classmethod
    def from_hf(cls, content: dict[str, Any]) -> EncoderConfig:
        """Read config.json. ValueError names a setting that is not implemented or a wrong value."""
        for name, implemented in REFUSED.items():
            if name in content and content[name] not in implemented:
                raise ValueError(f"{cls.model_type}: {name}={content[name]!r} is not implemented")
        settings = {}
        for name, default in stored(cls).items():
            key = cls.keys.get(name, name)
            if key is not None:
                settings[name] = content.get(key, default)
        if isinstance(settings["eos_token_id"], list):
            settings["eos_token_id"] = tuple(settings["eos_token_id"])
        return cls(
            **settings,
            labels=labels_of(cls.model_type, content),
            add_pooling_layer=content.get("add_pooling_layer", True),
            architecture=architecture_of(cls, content),
        )


def stored(config: type[EncoderConfig]) -> dict[str, Any]:
    """Fields that config.json holds as they are, and their defaults."""
    own = ("labels", "add_pooling_layer", "architecture")
    return {field.name: field.default for field in fields(config) if field.name not in own}


def architecture_of(config: type[EncoderConfig], content: dict[str, Any]) -> str:
    """The architecture that config.json names; the plain model where it names none."""
    named = content.get("architectures") or [f"{config.family}Model"]
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise ValueError(f"{config.model_type}: architectures={named!r}, a list of 1 is needed")
    if named[0] == f"{config.family}ForPreTraining":  # a masked LM and another head
        return f"{config.family}ForMaskedLM"
    return named[0]


def labels_of(model_type: str, content: dict[str, Any]) -> tuple[str, ...]:
    """Names of the classes by id, from id2label or num_labels; two where neither is given."""
    names, count = content.get("id2label"), content.get("num_labels")
    if names is None:
        count = 2 if count is None else count
        if type(count) is not int or not 1 <= count <= 1 << 20:
            raise ValueError(f"{model_type}: num_labels={count!r}, a whole number from 1 is needed")
        return tuple(f"LABEL_{place}" for place in range(count))
    if not isinstance(names, dict):
        raise ValueError(f"{model_type}: id2label={names!r}, an object is needed")
    by_id = {str(place): str(label) for place, label in names.items()}
    if not by_id or by_id.keys() != {str(place) for place in range(len(by_id))}:
        raise ValueError(
            f"{model_type}: id2label names {', '.join(sorted(by_id)[:8]) or 'no ids'}, "
            f"all ids from 0 on are needed"
        )
    if count not in (None, len(by_id)):
        raise ValueError(
            f"{model_type}: num_labels={count!r} but id2label names {len(by_id)}, one number is "
            "needed"
        )
    return tuple(by_id[str(place)] for place in range(len(by_id)))


def check(config: EncoderConfig) -> None:
    """ValueError in one line for sizes and settings that cannot be."""
    name = config.model_type
    choices = {
        "hidden_act": tuple(ACTIVATIONS),
        "problem_type": PROBLEMS,
        "architecture": tuple(config.family + task for task in TASKS),
    }
    for field, known in choices.items():
        value = getattr(config, field)
        if value not in known:
            raise ValueError(
                f"{name}: {field} {value!r} is not implemented, one of "
                f"{', '.join(map(str, known))} is needed"
            )
    for field in SIZES:
        whole(name, field, getattr(config, field), 1)
    lowest = 0 if "type_vocab_size" in config.keys else 1  # 0: the family has no segments
    whole(name, "type_vocab_size", config.type_vocab_size, lowest)
    if config.pad_token_id is not None:
        whole(name, "pad_token_id", config.pad_token_id, 0, config.vocab_size)
    ends = config.eos_token_id if isinstance(config.eos_token_id, tuple) else (config.eos_token_id,)
    for field, value in (
        ("bos_token_id", config.bos_token_id),
        *(("eos_token_id", e) for e in ends),
    ):
        if value is not None:
            whole(name, field, value, 0)
    bounds = {
        "hidden_dropout_prob": 1.0,
        "attention_probs_dropout_prob": 1.0,
        "head_dropout": 1.0,
        "layer_norm_eps": math.inf,
        "initializer_range": math.inf,
    }
    check_numbers(name, config, bounds)
    if config.task == "span" and len(config.labels) != 2:
        raise ValueError(
            f"{name}: {len(config.labels)} labels for {config.architecture}, 2 are needed"
        )
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"{name}: {config.num_attention_heads} heads do not divide the width "
            f"{config.hidden_size}, a multiple of {config.num_attention_heads} is needed"
        )
    for field in ("tie_word_embeddings", "add_pooling_layer"):
        if type(getattr(config, field)) is not bool:
            raise ValueError(f"{name}: {field} is {getattr(config, field)!r}, a boolean is needed")


def whole(name: str, field: str, value: Any, low: int, high: int | None = None) -> None:
    """ValueError unless `value` is an int, low <= value < high."""
    if type(value) is not int or value < low or (high is not None and value >= high):
        below = "" if high is None else f" below {high}"
        raise ValueError(
            f"{name}: {field} is {value!r}, a whole number from {low}{below} is needed"
        )

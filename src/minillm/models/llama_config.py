"""Settings of the Llama family: what config.json says, and what of it is not implemented."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from minillm import nn
from minillm.models.family import ACTIVATIONS, check_flags, check_numbers
from minillm.models.rope import rope_from_hf, rope_to_hf

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_QWEN2 = {
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
DEFAULTS: dict[str, dict[str, Any]] = {  # transformers' values for what config.json leaves out
    "llama": {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "qwen2": _QWEN2 | {"attention_bias": True},
    "qwen3": _QWEN2 | {"head_dim": 128},
}
_NOWHERE = {  # settings that change the computation, with the value that is implemented
    "pretraining_tp": 1,
    "rope_interleaved": False,
    "is_causal": True,
    "use_bidirectional_attention": False,
    "add_cross_attention": False,
    "attention_chunk_size": None,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "num_experts": None,
    "num_local_experts": None,
    "quantization_config": None,
}
REFUSED: dict[str, dict[str, Any]] = {
    "llama": _NOWHERE | {"sliding_window": None, "use_sliding_window": False},
    "mistral": _NOWHERE | {"attention_bias": False, "mlp_bias": False},
    "qwen2": _NOWHERE | {"attention_bias": True, "mlp_bias": False},
    "qwen3": _NOWHERE | {"mlp_bias": False},
}
FULL, SLIDING = "full_attention", "sliding_attention"
NEEDED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
SIZES = (*NEEDED, "num_key_value_heads", "head_dim", "max_position_embeddings")
MOST_LAYERS = 65536  # so that a list of one entry a layer cannot fill the memory


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes and settings, with transformers' names; ValueError if they do not fit together.

    `layer_types` says for each layer whether it sees everything before ("full_attention") or the
    last `sliding_window` positions ("sliding_attention"). Empty: all slide if there is a window.
    """

    kind: ClassVar[str] = "decoder"

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    model_type: str = "llama"
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] = field(default_factory=lambda: rope_from_hf({}, "llama"))
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    sliding_window: int | None = None
    layer_types: tuple[str, ...] = ()
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        name = self.model_type
        _check_kind(name)
        for size in SIZES + ("sliding_window",) * (self.sliding_window is not None):
            _check_size(name, size, getattr(self, size))
        check_flags(name, self, ("tie_word_embeddings", "attention_bias", "mlp_bias"))
        check_numbers(name, self, {"attention_dropout": 1.0, "rms_norm_eps": math.inf})
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{name}: {self.num_attention_heads} heads on {self.num_key_value_heads} "
                f"key-value heads, a multiple of {self.num_key_value_heads} is needed"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(
                f"{name}: hidden_act {self.hidden_act!r}, one of {', '.join(ACTIVATIONS)} is needed"
            )
        eos = self.eos_token_id
        if not all(type(id) is int for id in (eos if isinstance(eos, tuple) else (eos or 0,))):
            raise ValueError(f"{name}: eos_token_id is {eos!r}, an id or several are needed")
        self._check_windows()
        _ = self.rotary  # which checks its parameters

    def _check_windows(self) -> None:
        name, types = self.model_type, set(self.layer_types)
        if len(self.layer_types) not in (0, self.num_hidden_layers) or types - {FULL, SLIDING}:
            raise ValueError(
                f"{name}: layer_types {self.layer_types}, {FULL} or {SLIDING} for each of "
                f"{self.num_hidden_layers} layers is needed"
            )
        slides = SLIDING in types or (not types and self.sliding_window is not None)
        if slides != (self.sliding_window is not None):
            raise ValueError(
                f"{name}: sliding_window is {self.sliding_window} and layer_types are "
                f"{self.layer_types}, a window is needed exactly where a layer slides"
            )
        if slides and (name == "llama" or (name == "mistral" and FULL in types)):
            raise ValueError(
                f"{name}: layer_types {self.layer_types} with sliding_window="
                f"{self.sliding_window} is not implemented"
            )
        if len(types) == 1:
            object.__setattr__(self, "layer_types", ())  # one spelling, so that configs compare

    @property
    def rotary(self) -> nn.Rotary:
        return nn.Rotary(self.head_dim, self.max_position_embeddings, self.rope_parameters)

    @property
    def n_layer(self) -> int:
        return self.num_hidden_layers

    @property
    def context(self) -> int:
        return self.rotary.context

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How far each layer sees, itself included; None: everything before."""
        types = self.layer_types or (SLIDING,) * self.num_hidden_layers
        return tuple(self.sliding_window if t == SLIDING else None for t in types)

    @property
    def output_bias(self) -> bool:
        return self.attention_bias and self.model_type != "qwen2"

    @property
    def query_norm(self) -> bool:
        return self.model_type == "qwen3"

    @property
    def parameter_count(self) -> int:
        c, hidden = self.hidden_size, self.intermediate_size
        queries = self.num_attention_heads * self.head_dim
        joint = queries + 2 * self.num_key_value_heads * self.head_dim
        layer = c * (joint + queries + 3 * hidden + 2)
        layer += joint * self.attention_bias + c * self.output_bias
        layer += (2 * hidden + c) * self.mlp_bias + 2 * self.head_dim * self.query_norm
        tables = 1 if self.tie_word_embeddings else 2
        return self.num_hidden_layers * layer + c * (tables * self.vocab_size + 1)

    def to_hf(self) -> dict[str, Any]:
        """The content of config.json."""
        kind, eos = self.model_type, self.eos_token_id
        names = (*SIZES, "hidden_act", "rms_norm_eps", "tie_word_embeddings", "attention_dropout")
        content: dict[str, Any] = {"architectures": [ARCHITECTURES[kind]], "model_type": kind}
        content |= {name: getattr(self, name) for name in names}
        content |= rope_to_hf(self.rope_parameters)
        if kind in ("llama", "qwen3"):
            content["attention_bias"] = self.attention_bias
        if kind == "llama":
            content["mlp_bias"] = self.mlp_bias
        else:
            content["sliding_window"] = self.sliding_window
        if kind in ("qwen2", "qwen3"):
            full = [window is None for window in self.windows]
            content["use_sliding_window"] = self.sliding_window is not None
            content["max_window_layers"] = [*full, False].index(False)
            content["layer_types"] = [FULL if whole else SLIDING for whole in full]
        return content | {
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
            "torch_dtype": "float32",
        }

    @classmethod
    def from_hf(cls, content: dict[str, Any]) -> LlamaConfig:
        """Read config.json; ValueError names a missing size and what is not implemented."""
        kind = content.get("model_type", "llama")
        _check_kind(kind)
        given = DEFAULTS[kind] | content
        for name, implemented in REFUSED[kind].items():
            if given.get(name) is not None and given[name] != implemented:
                raise ValueError(f"{kind}: {name}={given[name]!r} is not implemented")
        for name in NEEDED:
            if name not in given:
                raise ValueError(f"{kind}: config.json has no {name!r}")
            _check_size(kind, name, given[name])
        window, types = _windows(given, kind)
        eos = given.get("eos_token_id")
        return cls(
            **{name: given[name] for name in NEEDED},
            num_key_value_heads=_or(given.get("num_key_value_heads"), given["num_attention_heads"]),
            head_dim=_or(given.get("head_dim"), _head_dim(given, kind)),
            max_position_embeddings=given["max_position_embeddings"],
            model_type=kind,
            hidden_act=given.get("hidden_act", "silu"),
            rms_norm_eps=given.get("rms_norm_eps", 1e-6),
            rope_parameters=rope_from_hf(given, kind),
            tie_word_embeddings=given.get("tie_word_embeddings", False),
            attention_bias=_or(given.get("attention_bias"), False),
            mlp_bias=_or(given.get("mlp_bias"), False),
            attention_dropout=_or(given.get("attention_dropout"), 0.0),
            sliding_window=window,
            layer_types=types,
            bos_token_id=given.get("bos_token_id"),
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
        )


def _windows(given: dict[str, Any], kind: str) -> tuple[int | None, tuple[str, ...]]:
    """sliding_window and layer_types; Qwen has a switch, and full attention in the first layers."""
    window, types = given.get("sliding_window"), given.get("layer_types") or ()
    if not isinstance(types, list | tuple) or not all(isinstance(t, str) for t in types):
        raise ValueError(f"{kind}: layer_types is {types!r}, a list of names is needed")
    if kind not in ("qwen2", "qwen3"):
        return window, tuple(types)
    if not given.get("use_sliding_window", False):
        return None, tuple(types)
    if window is not None and not types:
        first, layers = given["max_window_layers"], given["num_hidden_layers"]
        if type(first) is not int:
            raise ValueError(f"{kind}: max_window_layers is {first!r}, a whole number is needed")
        types = [FULL if layer < first else SLIDING for layer in range(layers)]
    return window if SLIDING in types else None, tuple(types)


def _head_dim(given: dict[str, Any], kind: str) -> int:
    width, heads = given["hidden_size"], given["num_attention_heads"]
    if given.get("head_dim") is None and width % heads:
        raise ValueError(
            f"{kind}: {heads} heads do not divide the width {width}, head_dim or a width that is "
            f"a multiple of {heads} is needed"
        )
    return width // heads


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _check_kind(kind: Any) -> None:
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"llama: model_type {kind!r}, one of {known} is needed")


def _check_size(kind: str, name: str, value: Any) -> None:
    most = MOST_LAYERS if name == "num_hidden_layers" else math.inf
    if type(value) is not int or not 1 <= value <= most:
        bound = f" to {most}" if name == "num_hidden_layers" else ""
        raise ValueError(f"{kind}: {name} is {value!r}, a whole number from 1{bound} is needed")

"""CTranslate2's names and settings of a Transformer, and those of the family "transformer"."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy

from minillm.formats.deferred import Joined

Arrays = dict[str, Any]  # arrays, or such as are decoded when they are used

HEADS = {"TransformerBase": 8, "TransformerBig": 16, "TransformerSpec": 8}  # where num_heads is not
ACTIVATIONS = ("relu", "gelu_tanh", "silu", "gelu", "quick_gelu", "tanh", "sigmoid")
OUTSIDE = {
    "encoder/embeddings": "source_embeddings.",
    "encoder/embeddings_0": "source_embeddings.",
    "decoder/embeddings": "target_embeddings.",
    "encoder/layer_norm": "encoder.norm.",
    "decoder/layer_norm": "decoder.norm.",
    "decoder/projection": "output.",
}
ENCODER = {
    "self_attention/layer_norm": "norm1.",
    "self_attention/linear_0": "self_attn.in_proj_",
    "self_attention/linear_1": "self_attn.out_proj.",
    "ffn/layer_norm": "norm2.",
    "ffn/linear_0": "linear1.",
    "ffn/linear_1": "linear2.",
}
DECODER = ENCODER | {
    "attention/layer_norm": "norm2.",
    "attention/linear_0": "multihead_attn.in_proj_",  # queries; keys and values follow
    "attention/linear_2": "multihead_attn.out_proj.",
    "ffn/layer_norm": "norm3.",
}
LAST = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}
KEYS_AND_VALUES = re.compile(r"(decoder/layer_\d+/attention/)linear_1(/(?:weight|bias))")
LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/(.+)")
IGNORED = ("alignment_layer", "alignment_heads", "embeddings_merge", "scale_alibi",
           "alibi_use_positive_positions")  # fmt: skip
IMPLEMENTED = {"alibi": 0, "start_from_zero_embedding": 0, "scale_outputs": 1,
               "multi_query_attention": 0}  # fmt: skip
TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
SWITCHES = ("with_source_bos", "with_source_eos", "with_target_bos", "user_decoder_start_tokens")


def our_name(name: str) -> str | None:
    """The parameter that a tensor is (the first part of); None for settings and for what is new."""
    stem, _, last = name.rpartition("/")
    if last not in LAST:
        return None
    if stem in OUTSIDE:
        return OUTSIDE[stem] + LAST[last]
    layer = LAYER.fullmatch(stem)
    if layer is None:
        return None
    stack, place, part = layer.groups()
    ours = (DECODER if stack == "decoder" else ENCODER).get(part)
    return None if ours is None else f"{stack}.layers.{place}.{ours}{LAST[last]}"


def state_of(arrays: Arrays, path: Path) -> tuple[Arrays, Arrays]:
    """Arrays under our names, and those that did not go into them."""
    state: Arrays = {}
    rest = dict(arrays)
    for name in arrays:
        ours = our_name(name)
        if ours is not None:
            state[ours] = rest.pop(name)
    for name in list(rest):
        joined = KEYS_AND_VALUES.fullmatch(name)
        first = f"{joined[1]}linear_0{joined[2]}" if joined else ""
        if first in arrays:
            ours = str(our_name(first))
            if arrays[first].shape[1:] != arrays[name].shape[1:] or not arrays[name].ndim:
                raise ValueError(
                    f"{path}: {first} {arrays[first].shape} and {name} {arrays[name].shape} "
                    "cannot be joined"
                )
            state[ours] = Joined((arrays[first], rest.pop(name)))
    for name, weight in list(state.items()):  # biases are optional, 0 where left out
        bias = re.sub(r"weight$", "bias", name)
        if name.endswith(("_weight", "proj.weight", "1.weight", "2.weight")) and weight.ndim == 2:
            state.setdefault(bias, numpy.zeros(weight.shape[0], numpy.float32))
    for name in ("source_embeddings", "target_embeddings", "output"):
        weight = state.get(f"{name}.weight")
        if weight is None or weight.ndim != 2:
            raise ValueError(f"{path}: no matrix {name}.weight, an encoder-decoder is needed")
    return state, rest


class Settings:
    """Numbers and strings among the tensors, each to be asked for; the rest is refused."""

    def __init__(self, arrays: Arrays, path: Path) -> None:
        self.arrays, self.path = dict(arrays), path

    def number(self, name: str, default: float) -> float:
        array = self.arrays.pop(name, None)
        if array is None:
            return default
        if array.size != 1:
            raise ValueError(f"{self.path}: {name} has shape {array.shape}, a number is needed")
        return array.item()

    def text(self, name: str, default: str) -> str:
        array = self.arrays.pop(name, None)
        if array is None:
            return default
        return array.astype(numpy.uint8).tobytes().decode("utf-8", "replace")

    def both(self, name: str, default: float) -> float:
        """What encoder and decoder say, which must be the same."""
        values = {self.number(f"{stack}/{name}", default) for stack in ("encoder", "decoder")}
        if len(values) > 1:
            raise ValueError(f"{self.path}: {name} differs between encoder and decoder, {values}")
        return values.pop()

    def finish(self) -> None:
        """ValueError naming what nobody asked for."""
        if self.arrays:
            names = sorted(self.arrays)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{self.path}: {', '.join(names[:3])}{more} is not implemented")


def settings_of(
    architecture: str, state: Arrays, rest: Arrays, own: dict[str, Any], path: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the family "transformer", and what is said about tokens.

    `rest` is what is no parameter, `own` the content of CTranslate2's config.json. ValueError names
    what is not implemented.
    """
    if architecture not in HEADS:
        raise ValueError(
            f"{path}: architecture {architecture!r}, one of {', '.join(HEADS)} is needed"
        )
    given = Settings(rest, path)
    for stack in ("encoder", "decoder"):
        for name in IGNORED:
            given.number(f"{stack}/{name}", 0)
        for name, implemented in IMPLEMENTED.items():
            value = given.number(f"{stack}/{name}", implemented)
            if value != implemented:
                raise ValueError(f"{path}: {stack}/{name}={value} is not implemented")
    for name in ("quantization_type", "multi_query_attention"):
        if own.get(name) not in (None, False):
            raise ValueError(f"{path}: {name}={own[name]!r} is not implemented")
    activation = int(given.both("activation", 0))
    if not 0 <= activation < len(ACTIVATIONS):
        raise ValueError(f"{path}: activation {activation}, 0 to {len(ACTIVATIONS) - 1} is needed")
    tokens = _tokens(given, own)
    settings = {
        "model_type": "transformer",
        **_sizes(state),
        "nhead": int(given.both("num_heads", HEADS[architecture])),
        "dropout": 0.0,
        "activation": ACTIVATIONS[activation],
        "layer_norm_eps": own.get("layer_norm_epsilon") or 1e-5,
        "norm_first": bool(given.both("pre_norm", 1)),
        "final_norm": "encoder.norm.weight" in state,
        "scale_embeddings": _scaled(given, state["source_embeddings.weight"].shape[1]),
        "positions": "halves",
        "first_position": 1,
        "share_embeddings": state["source_embeddings.weight"] is state["target_embeddings.weight"],
        "tie_word_embeddings": state["output.weight"] is state["target_embeddings.weight"],
        "output_bias": "output.bias" in state,
    }
    given.finish()
    return settings, tokens


def _sizes(state: Arrays) -> dict[str, int]:
    source, target = (state[f"{side}_embeddings.weight"].shape for side in ("source", "target"))
    hidden = [a.shape[0] for name, a in state.items() if name.endswith("linear1.bias")]
    layers = {
        stack: len({name.split(".")[2] for name in state if name.startswith(f"{stack}.layers.")})
        for stack in ("encoder", "decoder")
    }
    return {
        "vocab_size": source[0],
        "target_vocab_size": target[0],
        "d_model": source[1],
        "num_encoder_layers": layers["encoder"],
        "num_decoder_layers": layers["decoder"],
        "dim_feedforward": hidden[0] if hidden else 0,
    }


def _scaled(given: Settings, width: int) -> bool:
    """Whether embeddings are multiplied by sqrt(width): a flag, or the factor itself."""
    root, answers = math.sqrt(width), set()
    for stack in ("encoder", "decoder"):
        older = given.number(f"{stack}/embeddings/multiply_by_sqrt_depth", 1)
        scale = given.number(f"{stack}/scale_embeddings", older)
        factor = scale if isinstance(scale, float) else (root if scale else 1.0)
        if factor != 1 and not math.isclose(factor, root, rel_tol=1e-6):
            raise ValueError(f"{given.path}: {stack}/scale_embeddings={scale} is not implemented")
        answers.add(factor != 1)
    if len(answers) > 1:
        raise ValueError(f"{given.path}: scale_embeddings differs between encoder and decoder")
    return answers.pop()


def _tokens(given: Settings, own: dict[str, Any]) -> dict[str, Any]:
    """Special tokens by role: from config.json (version 6), or from the tensors."""
    tokens: dict[str, Any] = {
        name: own.get(name) or given.text(name, default) for name, default in TOKENS.items()
    }
    before, after, start, free = (
        bool(given.number(name, default)) for name, default in zip(SWITCHES, (0, 0, 1, 0))
    )
    default = None if free else tokens["bos_token" if start else "eos_token"]
    tokens["decoder_start_token"] = own.get("decoder_start_token", default)
    tokens["add_source_bos"] = own.get("add_source_bos", before)
    tokens["add_source_eos"] = own.get("add_source_eos", after)
    return tokens

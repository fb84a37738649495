"""What a model family is: a configuration, a module, and the names its weights have in files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

from minillm.arrays import Array

Arrays = dict[str, Array]
ROWS = 4096  # compared at a time
ACTIVATIONS = {  # transformers' names of those in nn.ACTIVATIONS
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}


class Family(NamedTuple):
    """One architecture. Its file ends with `FAMILY = Family(...)`; `models.FAMILIES` lists it.

    model_types   the values of `model_type` in config.json that it opens
    config        frozen dataclass: from_hf(content) -> Config, to_hf() -> content of config.json;
                  has vocab_size, context (None: unbounded), n_layer, eos_token_id,
                  parameter_count, kind ("decoder", "encoder" or "encoder-decoder")
    model         Model(config, seed=0), an nn.Module
    from_files    (arrays with Hugging Face's names and layout, config) -> state_dict
    to_files      the reverse
    """

    model_types: tuple[str, ...]
    config: Any
    model: Any
    from_files: Callable[[Arrays, Any], Arrays]
    to_files: Callable[[Arrays, Any], Arrays]


def check_sizes(family: str, config: Any, names: tuple[str, ...]) -> None:
    """ValueError unless each of these settings is a whole number from 1."""
    for name in names:
        size = getattr(config, name)
        if type(size) is not int or size < 1:
            raise ValueError(f"{family}: {name} is {size!r}, a whole number from 1 is needed")


def check_numbers(family: str, config: Any, below: dict[str, float]) -> None:
    """ValueError unless each of these settings is a number from 0 below its limit."""
    for name, high in below.items():
        value = getattr(config, name)
        if type(value) not in (int, float) or not 0 <= value < high:
            raise ValueError(
                f"{family}: {name} is {value!r}, a number of at least 0 below {high} is needed"
            )


def check_flags(family: str, config: Any, names: tuple[str, ...]) -> None:
    """ValueError unless each of these settings is true or false."""
    for name in names:
        if type(getattr(config, name)) is not bool:
            raise ValueError(f"{family}: {name} is {getattr(config, name)!r}, a bool is needed")


def without_prefix(arrays: Arrays, prefix: str, family: str) -> Arrays:
    """The arrays, their names without an optional prefix; ValueError if one is there with and
    without it."""
    state: Arrays = {}
    for name, array in arrays.items():
        short = name.removeprefix(prefix)
        if short in state:
            raise ValueError(f"{family}: {short} is there twice, one is needed")
        state[short] = array
    return state


def tie(state: Arrays, head: str, embedding: str, family: str) -> None:
    """Keep `embedding` of two tied weights in `state`, whichever is there.

    Warns, with the largest difference, where both are there and differ.
    """
    if head not in state:
        return
    twin = state.pop(head)
    if embedding not in state:
        state[embedding] = twin
        return
    kept = state[embedding]
    if twin.shape != kept.shape:
        raise ValueError(
            f"{family}: {head} has shape {twin.shape}, {embedding} {kept.shape}; equal shapes are "
            "needed, the configuration ties them"
        )
    difference = 0.0
    for start in range(0, sum(kept.shape[:1]), ROWS):
        rows = slice(start, start + ROWS)
        gap = numpy.abs(numpy.asarray(twin[rows]) - numpy.asarray(kept[rows])).max(initial=0.0)
        difference = float(numpy.maximum(difference, gap))  # NaN stays
    if difference:
        warnings.warn(
            f"{family}: {head} and {embedding} differ by up to {difference:.3g}, but the "
            f"configuration ties them; {embedding} is used for both",
            stacklevel=2,
        )

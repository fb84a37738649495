"""minillm: train, tune, understand and run small Transformers with nothing heavier than NumPy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minillm import data, generation, models, nn, ops, optim, tokenizers, training
    from minillm.arrays import manual_seed
    from minillm.generation import complete, generate, stream
    from minillm.kernels import get_default_device, set_default_device
    from minillm.models.folder import load
    from minillm.tensor import Tensor, checkpoint, enable_grad, no_grad

_WHERE = {
    "Tensor": "minillm.tensor",
    "checkpoint": "minillm.tensor",
    "enable_grad": "minillm.tensor",
    "no_grad": "minillm.tensor",
    "manual_seed": "minillm.arrays",
    "get_default_device": "minillm.kernels",
    "set_default_device": "minillm.kernels",
    "complete": "minillm.generation",
    "generate": "minillm.generation",
    "stream": "minillm.generation",
    "load": "minillm.models.folder",
}
_ROOMS = ("data", "generation", "models", "nn", "ops", "optim", "tokenizers", "training")

__all__ = [*_WHERE, *_ROOMS]


def __getattr__(name: str) -> Any:
    """Load rooms on first use: the command line sets thread counts before NumPy starts."""
    if name in _WHERE:
        if name == "Tensor":
            importlib.import_module("minillm.ops")  # gives Tensor its operators
        value = getattr(importlib.import_module(_WHERE[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"minillm.{name}")
    else:
        raise AttributeError(f"module 'minillm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""What of a model is trained: everything, its head, its last blocks, or adapters beside it."""

from __future__ import annotations

from typing import Any

from minillm import nn
from minillm.models.adapter import Lora, adapted, attach, freeze

EMBEDDINGS = ("embed", "wte", "wpe", "shared", "source_embeddings", "target_embeddings")


def train_all(model: Any) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def train_head(model: Any) -> None:
    """What comes after the blocks: the last norm, a pooler, a classifier, the head.

    A head that is one with the embeddings is trained as such.
    """
    train_last(model, 0)
    head = getattr(model, "head", None)
    if isinstance(head, nn.Parameter):
        head.requires_grad_(True)


def train_last(model: Any, count: int) -> None:
    """The last `count` blocks and what comes after them; ValueError if there are fewer."""
    stacks = [
        (name, part) for name, part in model.named_children() if isinstance(part, nn.ModuleList)
    ]
    if len(stacks) != 1:
        raise ValueError(
            f"finetune: the model has {len(stacks)} stacks of blocks, 1 is needed for this method"
        )
    name, stack = stacks[0]
    if count > len(stack):
        raise ValueError(f"finetune: --last {count}, the model has {len(stack)} blocks")
    freeze(model)
    trained = tuple(f"{name}.{place}." for place in range(len(stack) - count, len(stack)))
    for own, parameter in model.named_parameters():
        after = not own.startswith((f"{name}.", *EMBEDDINGS))
        if own.startswith(trained) or after:
            parameter.requires_grad_(True)


def train_beside(model: Any, lora: Lora, seed: int) -> None:
    """Adapters beside the layers of the blocks, and what comes after the blocks."""
    attach(model, lora, seed)
    train_last(model, 0)
    for _, layer in adapted(model):
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)


def widen(model: Any) -> None:
    """Decode whatever still lies in a file, so that no step has to."""
    for parameter in model.parameters():
        _ = parameter.data


def blocks_held(model: Any) -> int:
    """How many matrices lie in blocks smaller than 16 bits a number."""
    found = 0
    for parameter in model.parameters():
        held = parameter.held if isinstance(parameter, nn.DeferredParameter) else None
        found += held is not None and held.kind not in ("F32", "F16", "BF16")
    return found

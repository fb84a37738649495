"""PyTorch on the GPU, beside ours in the same process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from bench.models import Size, build
from bench.peer_torch import FUNCTIONS, TorchTraining
from bench.torch_gpt2 import features


def calls(
    name: str, arrays: list[Any], params: dict[str, Any], device: str, half: bool
) -> dict[str, Callable[[], object]]:
    """Forward, and forward with backward, of the function that does what our op `name` does."""
    dtype = torch.bfloat16 if half else torch.float32
    tensors = []
    for array in arrays:
        tensor = torch.tensor(array, device=device)
        if tensor.is_floating_point():
            tensor = tensor.to(dtype).requires_grad_(name != "adamw")
        tensors.append(tensor)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]

    def forward() -> Any:
        return FUNCTIONS[name](*tensors, **params)

    if not wanted:
        return {"forward": forward}
    upstream = torch.randn_like(forward())

    def both() -> Any:
        return torch.autograd.grad(forward(), wanted, upstream)

    return {"forward": forward, "both": both}


def product(n: int, device: str) -> tuple[Callable[[], object], float]:
    """A product of bfloat16 matrices of random numbers, and its flop."""
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    return lambda: a @ b, 2.0 * n**3


def training(size: Size, device: str, compiled: bool) -> Any:
    return TorchTraining(size, "bf16", 1, compiled, device)


def peak_bytes(device: str) -> float:
    return torch.cuda.max_memory_reserved() if device == "cuda" else 0


class Decoding:
    """GPT-2 in bfloat16, eager: a token at a time, keys and values in place."""

    def __init__(self, size: Size, device: str) -> None:
        self.size, self.device = size, device
        self.weights = {
            name: torch.tensor(array, device=device, dtype=torch.bfloat16)
            for name, array in build(size).state_dict().items()
        }
        room = 1, size.heads, size.context, size.width // size.heads
        self.cache = [
            tuple(torch.empty(room, device=device, dtype=torch.bfloat16) for _ in range(2))
            for _ in range(size.layers)
        ]

    def write(self, prompt: list[int], count: int) -> list[int]:
        """The `count` tokens that follow, each the most probable."""
        found: list[int] = []
        ids, start = prompt, 0
        with torch.inference_mode():
            for _ in range(count):
                row = torch.tensor([ids], device=self.device)
                x = features(self.weights, self.size, row, self.cache, start)
                logits = F.linear(x[0, -1], self.weights["wte.weight"])
                start += len(ids)
                ids = [int(logits.argmax())]
                found += ids
        return found

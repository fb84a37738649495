"""PyTorch as a contender: its functions for our ops, and our GPT-2 trained by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from bench.models import CLIP, OPTIONS, WEIGHT_DECAY, Size, batches, build
from bench.torch_gpt2 import features
from bench.turns import Contender
from minillm import testing
from minillm.op import Op

SAME_CALL = {
    torch: "add divide exp log matmul multiply negative relu sigmoid sqrt subtract tanh where",
    F: "gelu silu",
}


def set_up(precision: str, threads: int, device: str = "cpu") -> Any:
    """Size PyTorch's thread pool; the context in which its products have `precision`."""
    torch.set_num_threads(threads)
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def attention(q, k, v, mask=None, *, causal=False, offset=0, scale=None, window=None):  # type: ignore[no-untyped-def]
    assert window is None, "no case that is timed has a window"
    return F.scaled_dot_product_attention(
        q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def cross_entropy(logits, target, **params):  # type: ignore[no-untyped-def]
    losses = F.cross_entropy(logits.flatten(0, -2), target.flatten(), **params)
    return losses.view(target.shape) if params["reduction"] == "none" else losses


def adamw(*arrays, step, grad_scale, **params):  # type: ignore[no-untyped-def]
    """What torch.optim.AdamW(fused=True) calls for its parameters."""
    parameters, grads, m, v = (list(arrays[place::4]) for place in range(4))
    if grad_scale != 1:
        grads = [grad * grad_scale for grad in grads]
    steps = [torch.full((), float(step), device=p.device) for p in parameters]
    torch._fused_adamw_(parameters, grads, m, v, [], steps, amsgrad=False, maximize=False, **params)
    return parameters[0]


def linear(x, weight, bias=None, residual=None):  # type: ignore[no-untyped-def]
    out = F.linear(x, weight, bias)
    return out if residual is None else out + residual


def feed_forward(x, w1, b1, w2, b2, residual=None, *, activation):  # type: ignore[no-untyped-def]
    hidden = F.linear(x, w1, b1)
    if activation == "silu":
        return linear(F.silu(hidden), w2, b2, residual)
    approximate = "tanh" if activation == "gelu_tanh" else "none"
    return linear(F.gelu(hidden, approximate=approximate), w2, b2, residual)


def packed_attention(qkv, *, heads, kv_heads, causal, scale):  # type: ignore[no-untyped-def]
    kv_heads = kv_heads or heads
    parts = qkv.unflatten(2, (heads + 2 * kv_heads, -1)).transpose(1, 2)
    q, k, v = parts.split((heads, kv_heads, kv_heads), dim=1)
    return attention(q, k, v, causal=causal, scale=scale).transpose(1, 2).flatten(2)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(home, name) for home, names in SAME_CALL.items() for name in names.split()},
    "adamw": adamw,
    "cross_entropy": cross_entropy,
    "embedding": lambda weight, ids: F.embedding(ids, weight),
    "feed_forward": feed_forward,
    "layer_norm": lambda x, w, b, *, eps: F.layer_norm(x, x.shape[-1:], w, b, eps),
    "linear": linear,
    "linear_cross_entropy": lambda x, w, t, **p: cross_entropy(F.linear(x, w), t, **p),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "packed_attention": packed_attention,
    "rms_norm": lambda x, w, *, eps: F.rms_norm(x, x.shape[-1:], w, eps),
    "scaled_dot_product_attention": attention,
    "softmax": lambda x: F.softmax(x, -1),
}
"""Our op: the call of PyTorch that does the same. An op that is not here is not compared."""


class TorchProvider(testing.Provider):
    """PyTorch's function behind the contract of an op, so that one rule checks all."""

    def __init__(self, name: str, op: Op, precision: str) -> None:
        super().__init__(name, op)
        self.precision = precision
        half = precision == "bf16" and not op.mutates
        self.dtype = torch.bfloat16 if half else torch.float32

    def tensors(self, arrays: Sequence[Any]) -> list[Any]:
        """The arrays as tensors, in float32 over the same memory; many ask for a gradient."""
        made = []
        for place, array in enumerate(arrays):
            tensor = torch.from_numpy(array) if hasattr(array, "shape") else array
            if testing.is_float(array):
                tensor = tensor.to(self.dtype)
            if testing.is_float(array) and self.op.backward and place not in self.op.constant:
                tensor.requires_grad_()
            made.append(tensor)
        return made

    def run(self, tensors: Sequence[Any], params: dict[str, Any]) -> Any:
        return FUNCTIONS[self.op.name](*tensors, **params)

    def gradients(self, out: Any, grad: Any, tensors: Sequence[Any]) -> list[Any]:
        wanted = [t for t in tensors if torch.is_tensor(t) and t.requires_grad]
        found = iter(torch.autograd.grad(out, wanted, grad, retain_graph=True))
        return [next(found) if any(t is w for w in wanted) else None for t in tensors]

    def calls(self, arrays: Sequence[Any], params: dict[str, Any], grad: Any) -> dict[str, Any]:
        """What to time: the passes on tensors that are there already."""
        tensors = self.tensors(arrays)
        calls: dict[str, Any] = {"forward": lambda: self.run(tensors, params)}
        if self.op.backward is not None:
            out = self.run(tensors, params)
            upstream = torch.from_numpy(grad).to(out.dtype)
            calls["backward"] = lambda: self.gradients(out, upstream, tensors)
            calls["both"] = lambda: self.gradients(self.run(tensors, params), upstream, tensors)
        return calls

    def forward(self, arrays: Sequence[Any], params: dict[str, Any]) -> tuple[Any, Any]:
        tensors = self.tensors(arrays)
        out = self.run(tensors, params)
        return out.detach().float().numpy(), (out, *tensors)

    def backward(
        self, grad: Any, saved: Any, params: dict[str, Any], totals: Sequence[Any] = ()
    ) -> Sequence[Any]:
        out, *tensors = saved
        found = self.gradients(out, torch.from_numpy(grad).to(out.dtype), tensors)
        return [None if gradient is None else gradient.float().numpy() for gradient in found]


def providers(op: Op, precision: str, threads: int) -> list[TorchProvider]:
    """PyTorch on tensors of that precision, and on float32 ones besides."""
    torch.set_num_threads(threads)
    found = [TorchProvider("torch", op, precision)]
    if precision != "f32":
        found.append(TorchProvider("torch-f32", op, "f32"))
    return found


def loss(p: dict[str, Any], size: Size, ids: Any, targets: Any, reduction: str) -> Any:
    logits = F.linear(features(p, size, ids), p["wte.weight"])
    return cross_entropy(logits.float(), targets, reduction=reduction)


class Torch(Contender):
    """Our model's weights in PyTorch."""

    def __init__(
        self,
        size: Size,
        precision: str,
        threads: int,
        compiled: bool = False,
        device: str = "cpu",
    ) -> None:
        self.size, self.name = size, precision
        self.context = set_up(precision, threads, device)
        self.loss: Callable[..., Any] = torch.compile(loss) if compiled else loss
        self.weights = {
            name: torch.nn.Parameter(torch.tensor(array, device=device))
            for name, array in build(size).state_dict().items()
        }
        self.batches: list[Any] = [
            [torch.tensor(ids, device=device) for ids in pair] for pair in batches(size)
        ]

    def precision(self) -> str:
        return self.name

    def losses(self) -> Any:
        with torch.no_grad(), self.context:
            inputs, targets = self.batches[0]
            return loss(self.weights, self.size, inputs, targets, "none").cpu().numpy()


class TorchTraining(Torch):
    """Forward, backward, clipping, fused AdamW; dropout 0."""

    def __init__(
        self,
        size: Size,
        precision: str,
        threads: int,
        compiled: bool = False,
        device: str = "cpu",
    ) -> None:
        super().__init__(size, precision, threads, compiled, device)
        parameters = list(self.weights.values())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, fused=True, **OPTIONS)
        self.steps = 0

    def step(self) -> float:
        inputs, targets = self.batches[self.steps % len(self.batches)]
        self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        with self.context:
            value = self.loss(self.weights, self.size, inputs, targets, "mean")
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.weights.values(), CLIP)
        self.optimizer.step()
        return value.item()

"""Fixed cases: matrix products, and the operations that PyTorch was measured with before."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from minillm.arrays import new_generator

Built = tuple[list[Any], dict[str, Any]]
CHECKED = 1 << 21  # elements of a case that is checked; of a larger one all axes are halved
CHECKED_FLOP = 1 << 29


@dataclass(frozen=True)
class Case:
    """An op at one shape."""

    op: str
    group: str
    shape: tuple[int, ...]
    make: Callable[..., Built]
    elements: int  # of all arrays, about
    flop: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.group} {'x'.join(map(str, self.shape))}"

    def built(self) -> Built:
        return self.make(*self.shape)

    def checked(self) -> Built:
        """The case itself, or one with every axis halved until float64 has it quickly."""
        halvings = 0
        while (
            self.elements >> halvings * min(2, len(self.shape)) > CHECKED
            or self.flop / 8**halvings > CHECKED_FLOP
        ):
            halvings += 1
        return self.make(*(max(1, length >> halvings) for length in self.shape))


def normal(*shape: int, seed: int = 0) -> numpy.ndarray:
    return new_generator(seed).standard_normal(shape, dtype=numpy.float32)


def square(rows: int, cols: int, depth: int) -> Built:
    return [normal(rows, depth), normal(depth, cols, seed=1)], {}


def linear(rows: int, cols: int, depth: int) -> Built:
    return [normal(rows, depth), normal(cols, depth, seed=1), None, None], {}


def softmax(*shape: int) -> Built:
    return [normal(*shape)], {}


def layer_norm(rows: int, cols: int) -> Built:
    return [normal(rows, cols), normal(cols, seed=1), normal(cols, seed=2)], {"eps": 1e-5}


def attention(*shape: int) -> Built:
    q, k, v = (normal(*shape, seed=seed) for seed in range(3))
    return [q, k, v, None], {"causal": True, "offset": 0, "scale": None}


def gelu(approximate: str) -> Callable[..., Built]:
    return lambda *shape: ([normal(*shape)], {"approximate": approximate})


def cross_entropy(rows: int, classes: int) -> Built:
    target = new_generator(1).integers(0, classes, rows)
    params = {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "mean"}
    return [normal(rows, classes), target], params


def adamw(size: int) -> Built:
    param, grad, m = (normal(size, seed=seed) / 50 for seed in range(3))
    params = {"lr": 3e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    return [param, grad, m, m * m], params | {"step": 10, "grad_scale": 1.0}


def product(op: str, group: str, make: Callable[..., Built], *shape: int) -> Case:
    rows, cols, depth = shape
    elements = rows * depth + cols * depth + rows * cols
    return Case(op, group, shape, make, elements, 2.0 * rows * cols * depth)


def plain(op: str, group: str, make: Callable[..., Built], *shape: int) -> Case:
    return Case(op, group, shape, make, math.prod(shape))


def heads(batch: int, number: int, length: int, width: int) -> Case:
    shape = batch, number, length, width
    flop = 4.0 * math.prod(shape) * length
    name = "scaled_dot_product_attention"
    return Case(name, "attention", shape, attention, math.prod(shape), flop)


SQUARES = (384, 512, 768, 1024, 1536, 2048, 3072, 4096)
LAYERS = (  # rows, out, in
    (768, 384, 128), (768, 128, 128), (768, 512, 128), (768, 128, 512),  # XS
    (3072, 1152, 384), (3072, 384, 384), (3072, 1536, 384), (3072, 384, 1536),  # S
    (512, 2304, 768), (512, 768, 768), (512, 3072, 768), (512, 768, 3072),  # M
    (512, 50257, 768),
)  # fmt: skip
CASES = [
    *(product("matmul", "square", square, n, n, n) for n in SQUARES),
    *(product("linear", "linear", linear, *shape) for shape in LAYERS),
    *(plain("softmax", "softmax", softmax, *s) for s in ((72, 256, 256), (512, 50257))),
    *(plain("layer_norm", "layernorm", layer_norm, *s) for s in ((3072, 384), (8192, 768))),
    *(heads(*shape) for shape in ((12, 6, 256, 64), (1, 12, 1024, 64))),
    plain("gelu", "gelu-tanh", gelu("tanh"), 3072, 1536),
    plain("gelu", "gelu-erf", gelu("none"), 3072, 1536),
    plain("cross_entropy", "cross-entropy", cross_entropy, 512, 50257),
    *(plain("adamw", "adamw", adamw, size) for size in (10_000_000, 124_000_000)),
]
GROUPS = tuple(dict.fromkeys(case.group for case in CASES))

"""Model sizes, and a training step of minillm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy

from bench.turns import Contender
from minillm import kernels, testing
from minillm.arrays import new_generator
from minillm.models import GPT2, GPT2Config
from minillm.optim import AdamW, clip_scale, decay_groups, grad_norm
from minillm.tensor import no_grad
from minillm.training.gradients import Gradients

BATCHES = 4  # different ones, in turn
OPTIONS: dict[str, Any] = {"lr": 3e-4, "betas": (0.9, 0.95)}
WEIGHT_DECAY, CLIP = 0.1, 1.0


@dataclass(frozen=True)
class Size:
    """A GPT-2 and the batch it is trained on."""

    layers: int
    heads: int
    width: int
    context: int
    batch: int
    vocabulary: int
    activation: str = "gelu_new"  # with tanh; "gelu" is the exact one

    @property
    def parameters(self) -> int:
        """Weights of the matrix products: 12 C^2 a layer, and the head."""
        return (12 * self.layers * self.width + self.vocabulary) * self.width

    @property
    def step_flop(self) -> float:
        """6 a weight and token, forward and backward, and attention without its causal half."""
        attention = 12 * self.layers * self.width * self.context
        return float(self.tokens * (6 * self.parameters + attention))

    @property
    def tokens(self) -> int:
        """Tokens of a training step."""
        return self.batch * self.context


SIZES = {
    "XS": Size(4, 4, 128, 64, 12, 65),
    "S": Size(6, 6, 384, 256, 12, 65),
    "M": Size(12, 12, 768, 256, 2, 50257),  # GPT-2 124M
}


def build(size: Size) -> GPT2:
    """The model that every contender starts from."""
    return GPT2(
        GPT2Config(
            vocab_size=size.vocabulary,
            n_positions=size.context,
            n_embd=size.width,
            n_layer=size.layers,
            n_head=size.heads,
            activation_function=size.activation,
        )
    )


def batches(size: Size) -> list[tuple[numpy.ndarray, numpy.ndarray]]:
    """Inputs and targets (B, T), random and the same for every contender."""
    shape = BATCHES, size.batch, size.context + 1
    ids = new_generator(1).integers(0, size.vocabulary, shape)
    return [(batch[:, :-1], batch[:, 1:]) for batch in ids]


@contextmanager
def serving(provider: str, precision: Any, threads: int, device: str = "cpu") -> Iterator[None]:
    """Let `provider` (reference or cpu) serve the block, in f32 where it has no bf16 products."""
    kernels.set_threads(threads)
    chosen: kernels.Provider = "reference" if provider == "reference" else "auto"
    with kernels.use(chosen):
        had = precision if kernels.has_bf16(device) else "f32"
        with kernels.precision(had, device):
            yield


class Ours(Contender):
    """A minillm model in a process of its own, which one provider serves to its end."""

    def __init__(
        self, size: Size, provider: str, precision: str, threads: int, device: str = "cpu"
    ) -> None:
        self._serving = serving(provider, precision, threads, device)
        self._serving.__enter__()
        self.size = size
        self.model = build(size).to(device)

    def precision(self) -> str:
        """The precision it runs in, which is f32 where there are no bf16 products."""
        return kernels.active_precision

    def losses(self) -> numpy.ndarray:
        """Loss of every token of the first batch, before any training."""
        with no_grad():
            return self.model.loss(*batches(self.size)[0], reduction="none").numpy()


class Training(Ours):
    """A step: forward, backward, clipping, AdamW; on a GPU with `graphs` as runs do it there."""

    def __init__(
        self,
        size: Size,
        provider: str,
        precision: str,
        threads: int,
        device: str = "cpu",
        graphs: bool = False,
    ) -> None:
        super().__init__(size, provider, precision, threads, device)
        self.optimizer = AdamW(decay_groups(self.model.parameters(), WEIGHT_DECAY), **OPTIONS)
        self.batches = batches(size)
        self.arena = kernels.Arena()
        self.gradients = Gradients(device, self.optimizer.parameters()) if graphs else None

    def step(self) -> float:
        batch = self.batches[self.optimizer.steps % BATCHES]
        with self.arena.step():
            self.optimizer.zero_grad()
            if self.gradients is None:
                loss = self.gradient(batch, lambda dtype: numpy.ones((), dtype))
            else:
                loss = self.captured(self.gradients, batch)
            self.optimizer.step(clip_scale(grad_norm(self.optimizer.parameters()), CLIP))
            return float(loss)

    def gradient(self, batch: Any, scale: Any) -> Any:
        """The loss, an array; `scale` gives what its gradient is multiplied by, for a dtype."""
        loss = self.model.loss(*batch)
        loss.backward(scale(loss.dtype))
        return loss.data

    def captured(self, gradients: Gradients, batch: Any) -> Any:
        parts = gradients.staging.take([batch])
        loss = gradients.find(self.gradient, batch, parts[0], 1.0)
        gradients.staging.used()
        return loss


class Truth:
    """The model in float64, taken as one op of its weights: what rounding them once may change."""

    def __init__(self, size: Size) -> None:
        self.size = size

    def losses(self, precision: str) -> tuple[numpy.ndarray, float]:
        """Loss of every token of the first batch, and the error that is tolerated in it."""
        eps = testing.EPS["bf16" if precision == "bf16" else "float32"]
        weights = [parameter.data for parameter in build(self.size).parameters()]
        model: Any = build(self.size).astype("float64")
        inputs, targets = batches(self.size)[0]

        def forward(xp: Any, *arrays: Any) -> tuple[Any, Any]:
            for parameter, array in zip(model.parameters(), arrays):
                parameter.data = array
            with no_grad():
                return model.loss(inputs, targets, reduction="none").numpy(), ()

        op: Any = SimpleNamespace(
            name="loss",
            forward=forward,
            backward=None,
            mutates=(),
            kernels=lambda lib: (None, None),
            rounds={},
        )
        with kernels.use("reference"):
            truth = testing.reference(op, weights, {}, eps=eps)
        return truth.outs[0], truth.budget * truth.out_units[0]

"""Optimisers, gradient clipping and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from minillm import ops
from minillm.arrays import Array, beside, xp_of
from minillm.nn import Linear
from minillm.nn.module import Parameter
from minillm.op import Op
from minillm.ops.adamw8bit import BLOCK, STATE
from minillm.tensor import Tensor

MUON_EPS = 1e-7  # least norm that the gradient's mean is divided by
Schedule = Literal["cosine", "linear", "constant", "wsd"]
SCHEDULES: tuple[Schedule, ...] = ("cosine", "linear", "constant", "wsd")


class Optimizer:
    """Groups of parameters with their options and state.

    `params` is an iterable of Parameters, or of dicts {"params": [...], option: value, ...}.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        groups = list(params)
        if not groups:
            raise ValueError("optimizer: no parameters given, at least 1 is needed")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups: list[dict[str, Any]] = []
        self.steps = 0
        seen: set[int] = set()
        for group in groups:
            unknown = set(group) - set(defaults) - {"params"}
            if unknown:
                raise ValueError(f"optimizer: unknown option {sorted(unknown)[0]!r}")
            merged = defaults | group
            for option in ("lr", "eps", "weight_decay"):
                if not merged.get(option, 0.0) >= 0:
                    raise ValueError(f"optimizer: {option}={merged[option]}, 0 or more is needed")
            for beta in merged.get("betas", ()):
                if not 0 <= beta < 1:
                    raise ValueError(f"optimizer: a beta of {beta}, 0 <= beta < 1 is needed")
            merged["params"] = list(group["params"])
            for param in merged["params"]:
                if not isinstance(param, Tensor) or id(param) in seen:
                    raise ValueError("optimizer: each parameter must be a Tensor, given once")
                seen.add(id(param))
            self.param_groups.append(merged)
        self.state: list[dict[str, Array]] = [
            self.new_state(param, self.names_of(group))
            for group in self.param_groups
            for param in group["params"]
        ]

    def parameters(self) -> list[Parameter]:
        return [param for group in self.param_groups for param in group["params"]]

    def names_of(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The names of what is kept for each parameter of a group."""
        return self.state_names

    def new_state(self, param: Parameter, names: tuple[str, ...]) -> dict[str, Array]:
        """What is kept for a parameter, by its names, as it is before the first step."""
        xp = xp_of(param.data)
        return {name: xp.zeros_like(param.data) for name in names}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for param in self.parameters():
            param.grad = None

    def step(self, grad_scale: float = 1.0) -> None:
        """Update every parameter that has a gradient, the gradient times `grad_scale`."""
        self.steps += 1
        states = iter(self.state)
        for group in self.param_groups:
            names = self.names_of(group)
            arrays: list[Array] = []
            updated: list[Parameter] = []
            for param in group["params"]:
                state = next(states)
                if param.grad is not None:
                    arrays += (param.data, param.grad.data)
                    arrays += [state[name] for name in names]
                    updated.append(param)
            if updated:
                self._update(arrays, group, grad_scale)
            for param in updated:
                param._version[0] += 1

    def _update(self, arrays: list[Array], group: dict[str, Any], grad_scale: float) -> None:
        """Update the parameters of a group: each with its gradient and its state in `arrays`."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The step count and the state arrays (not copied), in order of the parameters."""
        return {"steps": self.steps, "state": self.state}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Copy a state back, or ValueError and no change if it belongs to other parameters."""
        if len(saved["state"]) != len(self.state):
            raise ValueError(
                f"optimizer: state of {len(saved['state'])} parameters, {len(self.state)} needed"
            )
        for own, other in zip(self.state, saved["state"]):
            for name, array in own.items():
                shape = other[name].shape if name in other else "missing"
                if shape != array.shape:
                    raise ValueError(f"optimizer: state {name} {shape}, {array.shape} is needed")
        self.steps = int(saved["steps"])
        for own, other in zip(self.state, saved["state"]):
            for name, array in own.items():
                array[...] = beside(other[name], array)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    state_names: tuple[str, ...] = ("m", "v")
    rule: Op = ops.adamw

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def _update(self, arrays: list[Array], group: dict[str, Any], grad_scale: float) -> None:
        beta1, beta2 = group["betas"]
        self.rule.compute(
            *arrays,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            step=self.steps,
            grad_scale=grad_scale,
        )


class Muon(AdamW):
    """Muon (Jordan et al. 2024), and AdamW for groups with use_muon=False.

    As torch.optim.Muon but for `adjust_lr_fn`: here one learning rate and one weight decay serve
    both kinds of groups. Embeddings, the head and vectors belong to AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
    ) -> None:
        self._of_muon = {
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        Optimizer.__init__(self, params, defaults | {"use_muon": True})

    def names_of(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["use_muon"] else self.state_names

    def _update(self, arrays: list[Array], group: dict[str, Any], grad_scale: float) -> None:
        if not group["use_muon"]:
            return super()._update(arrays, group, grad_scale)
        ops.muon.compute(
            *arrays,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=MUON_EPS,
            grad_scale=grad_scale,
            **self._of_muon,
        )


class AdamW8bit(AdamW):
    """AdamW whose two moments take a byte each and a scale for 256 of them; see ops.adamw8bit."""

    state_names = STATE
    rule = ops.adamw8bit

    def new_state(self, param: Parameter, names: tuple[str, ...]) -> dict[str, Array]:
        xp = xp_of(param.data)
        scales = xp.zeros(-(-param.size // BLOCK), xp.float32)
        return {
            "m": xp.zeros(param.size, xp.int8),
            "m_scale": scales,
            "v": xp.zeros(param.size, xp.uint8),
            "v_scale": scales.copy(),
        }


class SGD(Optimizer):
    """Stochastic gradient descent with momentum and L2 weight decay."""

    state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def _update(self, arrays: list[Array], group: dict[str, Any], grad_scale: float) -> None:
        ops.sgd.compute(
            *arrays,
            lr=group["lr"],
            momentum=group["momentum"],
            weight_decay=group["weight_decay"],
            grad_scale=grad_scale,
        )


def decay_groups(params: Iterable[Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only: biases and norms are left alone."""
    params = list(params)
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def muon_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """What is trained: weights of Linear layers but the head for Muon, the rest for AdamW."""
    head = getattr(model, "head", None)
    head = getattr(head, "weight", head)  # of a layer; it may be the embedding too
    layers = (layer.weight for layer in model.modules() if isinstance(layer, Linear))
    hidden = {id(weight) for weight in layers if weight is not head}
    trained = [param for param in model.parameters() if param.requires_grad]
    muon = [param for param in trained if id(param) in hidden]
    if not muon:
        raise ValueError(
            "optimizer: muon has no matrix among what is trained, a weight of a linear layer that "
            "is not the head is needed; use adamw"
        )
    rest = decay_groups((p for p in trained if id(p) not in hidden), weight_decay)
    groups = [{"params": muon, "weight_decay": weight_decay, "use_muon": True}]
    return groups + [group | {"use_muon": False} for group in rest]


def grad_norm(params: Iterable[Parameter]) -> float:
    """Euclidean norm of all gradients together: finite whenever they are, however large."""
    arrays = [param.grad.data for param in params if param.grad is not None]
    if not arrays:
        return 0.0
    norm = float(ops.norm.compute(*arrays)[0])
    if math.isinf(norm):
        peak = max(float(abs(array).max()) for array in arrays if array.size)
        if math.isfinite(peak):
            norm = peak * float(ops.norm.compute(*(array / peak for array in arrays))[0])
    return norm


def clip_scale(norm: float, max_norm: float) -> float:
    """The factor that brings gradients of norm `norm` down to `max_norm`; 1 if they are below."""
    return max_norm / norm if max_norm and norm > max_norm else 1.0


def clip_grad_norm_(params: Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients in place to a joint norm of at most `max_norm`; the norm before.

    RuntimeError, and nothing scaled, if a gradient is not finite.
    """
    params = list(params)
    norm = grad_norm(params)
    if not math.isfinite(norm):
        raise RuntimeError(f"clip_grad_norm_: the norm is {norm}, finite gradients are needed")
    scale = clip_scale(norm, max_norm)
    if scale < 1:
        for param in params:
            if param.grad is not None:
                param.grad.data *= scale
    return norm


def scheduled(
    progress: float, schedule: Schedule, warmup: float = 0.0, final: float = 0.1
) -> float:
    """Share of the peak learning rate at `progress` (0 to 1) of the run.

    Linear warm-up over the first `warmup` of the run; then "cosine" or "linear" down to `final`,
    "constant", or "wsd": constant, and linear to `final` over the last fifth (warm-up, stable,
    decay; Hu et al. 2024, MiniCPM).
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: {schedule!r}, one of {', '.join(SCHEDULES)} is needed")
    if progress < warmup:
        return progress / warmup
    rest = min(1.0, (progress - warmup) / (1 - warmup)) if warmup < 1 else 1.0
    if schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * rest))
    if schedule == "linear":
        return final + (1 - final) * (1 - rest)
    if schedule == "wsd":
        return 1 - (1 - final) * max(0.0, rest - 0.8) / 0.2
    return 1.0

"""Muon's update of matrices, in place and without a gradient."""

from __future__ import annotations

import math

from minillm.op import Op
from minillm.ops.update import by_kernel, check

QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at 0 of those that keep 0.7 to 1.2 (Jordan)
ADJUSTMENTS = ("original", "match_rms_adamw")


def muon_forward(
    xp, *arrays, lr, momentum, nesterov, weight_decay, ns_steps, eps, adjust_lr_fn, grad_scale=1.0
):
    """Muon: the mean gradient with its singular values brought near 1 (Jordan et al. 2024)

    arrays: param, grad, momentum_buffer (R, C) of every parameter; param and momentum_buffer are
    updated in place; the gradients are times grad_scale. As in torch.optim.Muon the learning rate
    is times sqrt(max(1, R/C)) ("original") or 0.2 sqrt(max(R, C)) ("match_rms_adamw": updates as
    large as AdamW's, Liu et al. 2025).
    """
    for param, grad, momentum_buffer in zip(arrays[0::3], arrays[1::3], arrays[2::3]):
        grad = grad * grad_scale
        momentum_buffer *= momentum
        momentum_buffer += (1 - momentum) * grad
        update = momentum_buffer
        if nesterov:
            update = momentum * momentum_buffer + (1 - momentum) * grad
        param *= 1 - lr * weight_decay
        scale = learning_rate_scale(param.shape, adjust_lr_fn)
        param -= lr * scale * orthogonalized(xp, update, ns_steps, eps)
    return arrays[0], ()


def orthogonalized(xp, x, steps, eps):
    """x (R, C) with singular values near 1: Newton-Schulz steps X (a + b X'X + c (X'X)²)."""
    a, b, c = QUINTIC
    x = x / xp.maximum(xp.sqrt((x * x).sum()), eps)
    for _ in range(steps):
        if x.shape[0] > x.shape[1]:
            gram = x.T @ x
            x = a * x + x @ (b * gram + c * (gram @ gram))
        else:
            gram = x @ x.T
            x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def learning_rate_scale(shape, adjust_lr_fn):
    rows, cols = shape
    if adjust_lr_fn == "original":
        return math.sqrt(max(1, rows / max(1, cols)))
    return 0.2 * math.sqrt(max(rows, cols))


def muon_kernel_forward(lib, xp, *arrays, adjust_lr_fn, ns_steps, grad_scale=1.0, **rates):
    def kernel(arrays, **options):
        scales = [learning_rate_scale(param.shape, adjust_lr_fn) for param in arrays[0::3]]
        rest = {**rates, "steps": ns_steps, "quintic": QUINTIC, "grad_scale": grad_scale}
        lib.muon_forward(arrays, scales, **rest)

    options = {
        **rates,
        "adjust_lr_fn": adjust_lr_fn,
        "ns_steps": ns_steps,
        "grad_scale": grad_scale,
    }
    return by_kernel(kernel, muon_forward, xp, arrays, (xp.float32,) * 3, options)


def muon_check(*arrays, adjust_lr_fn, **params):
    check("muon", arrays, "param", "grad", "momentum_buffer")
    for param in arrays[0::3]:
        if param.ndim != 2:
            raise ValueError(f"muon: a parameter of shape {param.shape}, 2 axes are needed")
    if adjust_lr_fn not in ADJUSTMENTS:
        known = " or ".join(ADJUSTMENTS)
        raise ValueError(f"muon: adjust_lr_fn {adjust_lr_fn!r}, {known} is needed")


def muon_sample(draw):
    arrays = []
    for _ in range(draw.choice((1, 2, 3))):
        shape = draw.size("T"), draw.size("C")
        arrays += [draw.normal(*shape) for _ in range(3)]
    return arrays, {
        "lr": 0.1,
        "momentum": draw.choice((0.0, 0.95)),
        "nesterov": draw.choice((True, False)),
        "weight_decay": draw.choice((0.0, 0.1)),
        "ns_steps": draw.choice((1, 5)),
        "eps": 1e-7,
        "adjust_lr_fn": draw.choice(ADJUSTMENTS),
        "grad_scale": draw.choice((1.0, 0.25)),
    }


muon = Op(
    muon_forward,
    None,
    muon_sample,
    check=muon_check,
    kernel_forward=muon_kernel_forward,
    mutates=(0, 2),
    group_size=3,
)

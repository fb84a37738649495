"""Update rules of optimisers: they write parameters and state in place and have no gradient."""

from __future__ import annotations

import math

from minillm.op import Op


def adamw_forward(
    xp, param, grad, m, v, *, lr, beta1, beta2, eps, weight_decay, step, grad_scale=1.0
):
    """AdamW: decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), PyTorch's order

    param, m and v are updated in place; step counts from 1; the gradient is times grad_scale.
    """
    grad = grad * grad_scale
    param *= 1 - lr * weight_decay
    m *= beta1
    m += (1 - beta1) * grad
    v *= beta2
    v += (1 - beta2) * grad * grad
    denominator = xp.sqrt(v)
    denominator /= math.sqrt(1 - beta2**step)
    denominator += eps
    param -= lr / (1 - beta1**step) * m / denominator
    return param, ()


def adamw_kernel_forward(
    lib, xp, param, grad, m, v, *, lr, beta1, beta2, eps, weight_decay, step, grad_scale=1.0
):
    arrays = (param, grad, m, v)
    if any(a.dtype != xp.float32 or not a.flags.c_contiguous for a in arrays):
        return NotImplemented
    lib.adamw_forward(
        *(a.reshape(-1) for a in arrays), lr, beta1, beta2, eps, weight_decay, step, grad_scale
    )
    return param, ()


def adamw_check(param, grad, m, v, **params):
    if not param.shape == grad.shape == m.shape == v.shape:
        raise ValueError(
            f"adamw: param {param.shape}, grad {grad.shape}, m {m.shape}, v {v.shape}, "
            "equal shapes are needed"
        )
    if params["step"] < 1:
        raise ValueError(f"adamw: step {params['step']}, 1 or more is needed")


def adamw_sample(draw):
    shape = draw.shape()
    return [draw.normal(*shape), draw.normal(*shape), draw.normal(*shape), draw.positive(*shape)], {
        "lr": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "weight_decay": draw.choice((0.0, 0.1)),
        "step": draw.choice((1, 2, 100)),
        "grad_scale": draw.choice((1.0, 0.25)),
    }


def sgd_forward(
    xp, param, grad, momentum_buffer, *, lr, momentum=0.0, weight_decay=0.0, grad_scale=1.0
):
    """SGD with momentum as in PyTorch: buffer = momentum * buffer + g, param -= lr * buffer"""
    step = grad * grad_scale + weight_decay * param
    momentum_buffer *= momentum
    momentum_buffer += step
    param -= lr * momentum_buffer
    return param, ()


def sgd_check(param, grad, momentum_buffer, **params):
    if not param.shape == grad.shape == momentum_buffer.shape:
        raise ValueError(
            f"sgd: param {param.shape}, grad {grad.shape}, momentum_buffer "
            f"{momentum_buffer.shape}, equal shapes are needed"
        )


def sgd_sample(draw):
    shape = draw.shape()
    return [draw.normal(*shape) for _ in range(3)], {
        "lr": 0.1,
        "momentum": draw.choice((0.0, 0.9)),
        "weight_decay": draw.choice((0.0, 0.1)),
        "grad_scale": draw.choice((1.0, 0.25)),
    }


adamw = Op(
    adamw_forward,
    None,
    adamw_sample,
    check=adamw_check,
    kernel_forward=adamw_kernel_forward,
    mutates=(0, 2, 3),
)
sgd = Op(sgd_forward, None, sgd_sample, check=sgd_check, mutates=(0, 2))

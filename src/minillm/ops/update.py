"""Update rules of optimisers: they write parameters and state in place and have no gradient.

Each takes any number of parameters at once, every one followed by its gradient and its state.
"""

from __future__ import annotations

import math
from typing import Any

from minillm.op import Op


def adamw_forward(xp, *arrays, lr, beta1, beta2, eps, weight_decay, step, grad_scale=1.0):
    """AdamW: decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), PyTorch's order

    arrays: param, grad, m, v of one shape, of every parameter. param, m and v are updated in place;
    step counts from 1; the gradients are times grad_scale.
    """
    for param, grad, m, v in zip(arrays[0::4], arrays[1::4], arrays[2::4], arrays[3::4]):
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
    return arrays[0], ()


def adamw_kernel_forward(lib, xp, *arrays, grad_scale=1.0, **rates):
    options = {**rates, "grad_scale": grad_scale}
    return by_kernel(lib.adamw_forward, adamw_forward, xp, arrays, (xp.float32,) * 4, options)


def adamw_check(*arrays, **params):
    check("adamw", arrays, "param", "grad", "m", "v")
    if params["step"] < 1:
        raise ValueError(f"adamw: step {params['step']}, 1 or more is needed")


def check(name, arrays, *parts):
    """ValueError unless the arrays are one or more groups of `parts`, of equal shapes each."""
    size = len(parts)
    if not arrays or len(arrays) % size:
        raise ValueError(
            f"{name}: {len(arrays)} arrays, {', '.join(parts)} of every parameter are needed"
        )
    for start in range(0, len(arrays), size):
        shape = arrays[start].shape
        for place in range(start + 1, start + size):
            if arrays[place].shape != shape:
                shapes = (f"{part} {arrays[start + i].shape}" for i, part in enumerate(parts))
                raise ValueError(f"{name}: {', '.join(shapes)}, equal shapes are needed")


def by_kernel(kernel, reference, xp, arrays, types, options):
    """Update by `kernel` the parameters whose arrays it takes, by `reference` the others.

    It takes contiguous arrays of `types`; of the second of each group, which is only read, a copy.
    """
    ours: list[Any] = []
    others: list[Any] = []
    for start in range(0, len(arrays), len(types)):
        group = arrays[start : start + len(types)]
        flat = [group[0], xp.ascontiguousarray(group[1]), *group[2:]]
        fits = all(a.dtype == kind and a.flags.c_contiguous for a, kind in zip(flat, types))
        (ours if fits else others).extend(flat if fits else group)
    if not ours:
        return NotImplemented
    kernel(ours, **options)
    if others:
        reference(xp, *others, **options)
    return arrays[0], ()


def adamw_sample(draw):
    arrays = []
    for _ in range(draw.choice((1, 2, 3))):
        shape = draw.shape()
        arrays += [draw.normal(*shape) for _ in range(3)] + [draw.positive(*shape)]
    return arrays, {
        "lr": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "weight_decay": draw.choice((0.0, 0.1)),
        "step": draw.choice((1, 2, 100)),
        "grad_scale": draw.choice((1.0, 0.25)),
    }


def sgd_forward(xp, *arrays, lr, momentum=0.0, weight_decay=0.0, grad_scale=1.0):
    """SGD with momentum as in PyTorch: buffer = momentum * buffer + g, param -= lr * buffer

    arrays: param, grad, buffer of one shape, of every parameter; param and buffer change in place.
    """
    for param, grad, momentum_buffer in zip(arrays[0::3], arrays[1::3], arrays[2::3]):
        step = grad * grad_scale + weight_decay * param
        momentum_buffer *= momentum
        momentum_buffer += step
        param -= lr * momentum_buffer
    return arrays[0], ()


def sgd_kernel_forward(lib, xp, *arrays, lr, momentum=0.0, weight_decay=0.0, grad_scale=1.0):
    options = {
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "grad_scale": grad_scale,
    }
    return by_kernel(lib.sgd_forward, sgd_forward, xp, arrays, (xp.float32,) * 3, options)


def sgd_check(*arrays, **params):
    check("sgd", arrays, "param", "grad", "momentum_buffer")


def sgd_sample(draw):
    arrays = []
    for _ in range(draw.choice((1, 2, 3))):
        shape = draw.shape()
        arrays += [draw.normal(*shape) for _ in range(3)]
    return arrays, {
        "lr": 0.1,
        "momentum": draw.choice((0.0, 0.9)),
        "weight_decay": draw.choice((0.0, 0.1)),
        "grad_scale": draw.choice((1.0, 0.25)),
    }


def lerp_forward(xp, *arrays, weight):
    """lerp: start += weight (end - start), a step from one to the other, as torch.lerp

    arrays: start, end of one shape, any number of such pairs; start changes in place.
    """
    for start, end in zip(arrays[0::2], arrays[1::2]):
        start += weight * (end - start)
    return arrays[0], ()


def lerp_kernel_forward(lib, xp, *arrays, weight):
    types = (xp.float32,) * 2
    return by_kernel(lib.lerp_forward, lerp_forward, xp, arrays, types, {"weight": weight})


def lerp_check(*arrays, **params):
    check("lerp", arrays, "start", "end")


def lerp_sample(draw):
    arrays = []
    for _ in range(draw.choice((1, 2, 3))):
        shape = draw.shape()
        arrays += [draw.normal(*shape), draw.normal(*shape)]
    return arrays, {"weight": draw.choice((0.0, 0.001, 0.25, 1.0))}


adamw = Op(
    adamw_forward,
    None,
    adamw_sample,
    check=adamw_check,
    kernel_forward=adamw_kernel_forward,
    mutates=(0, 2, 3),
    group_size=4,
)
sgd = Op(
    sgd_forward,
    None,
    sgd_sample,
    check=sgd_check,
    kernel_forward=sgd_kernel_forward,
    mutates=(0, 2),
    group_size=3,
)
lerp = Op(
    lerp_forward,
    None,
    lerp_sample,
    check=lerp_check,
    kernel_forward=lerp_kernel_forward,
    mutates=(0,),
    group_size=2,
)

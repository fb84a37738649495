"""Normalisation over the last axis."""

from __future__ import annotations

from minillm.op import Op, targets
from minillm.ops.arith import unbroadcast


def layer_norm_forward(xp, x, weight=None, bias=None, *, eps=1e-5):
    """(x - mean) / sqrt(var + eps) * weight + bias, var biased (Ba et al. 2016)"""
    mean = xp.mean(x, axis=-1, keepdims=True, dtype=x.dtype)
    centred = x - mean
    centred -= xp.mean(
        centred, axis=-1, keepdims=True, dtype=x.dtype
    )  # what rounding the mean lost
    rstd = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True, dtype=x.dtype) + eps)
    out = centred * rstd
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias
    return out, (x, weight, bias is not None, mean[..., 0], rstd[..., 0])


def layer_norm_backward(xp, grad, saved, *, eps=1e-5):
    x, weight, has_bias, mean, rstd = saved
    normal = (x - mean[..., None]) * rstd[..., None]
    inner = grad if weight is None else grad * weight
    dx = inner - xp.mean(inner, axis=-1, keepdims=True, dtype=x.dtype)
    dx -= normal * xp.mean(inner * normal, axis=-1, keepdims=True, dtype=x.dtype)
    dx *= rstd[..., None]
    width = x.shape[-1:]
    return (
        dx,
        None if weight is None else unbroadcast(xp, grad * normal, width),
        unbroadcast(xp, grad, width) if has_bias else None,
    )


def rms_norm_forward(xp, x, weight=None, *, eps=1e-6):
    """x / sqrt(mean(x**2) + eps) * weight (Zhang and Sennrich 2019)"""
    rstd = 1 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True, dtype=x.dtype) + eps)
    out = x * rstd
    if weight is not None:
        out *= weight
    return out, (x, weight, rstd[..., 0])


def rms_norm_backward(xp, grad, saved, *, eps=1e-6):
    x, weight, rstd = saved
    normal = x * rstd[..., None]
    inner = grad if weight is None else grad * weight
    dx = inner - normal * xp.mean(inner * normal, axis=-1, keepdims=True, dtype=x.dtype)
    dx *= rstd[..., None]
    dweight = None if weight is None else unbroadcast(xp, grad * normal, x.shape[-1:])
    return dx, dweight


def layer_norm_check(x, weight=None, bias=None, *, eps=1e-5):
    check("layer_norm", x, weight, bias)


def rms_norm_check(x, weight=None, *, eps=1e-6):
    check("rms_norm", x, weight)


def check(name, x, *scales):
    if not x.ndim or not x.shape[-1]:
        raise ValueError(f"{name}: x {x.shape}, a last axis of at least 1 is needed")
    for scale in scales:
        if scale is not None and scale.shape != x.shape[-1:]:
            raise ValueError(f"{name}: weight or bias {scale.shape}, {x.shape[-1:]} is needed")


def rows(xp, array):
    return xp.ascontiguousarray(array).reshape(-1, array.shape[-1])


def contiguous(xp, scale):
    return None if scale is None else xp.ascontiguousarray(scale)


def layer_norm_kernel_forward(lib, xp, x, weight=None, bias=None, *, eps=1e-5):
    if x.dtype != xp.float32:
        return NotImplemented
    out = xp.empty(x.shape, x.dtype)
    mean, rstd = xp.empty(x.shape[:-1], x.dtype), xp.empty(x.shape[:-1], x.dtype)
    lib.layer_norm_forward(
        rows(xp, x),
        contiguous(xp, weight),
        contiguous(xp, bias),
        eps,
        out.reshape(-1, x.shape[-1]),
        mean.reshape(-1),
        rstd.reshape(-1),
    )
    return out, (x, weight, bias is not None, mean, rstd)


def layer_norm_kernel_backward(lib, xp, grad, saved, totals, *, eps=1e-5):
    x, weight, has_bias, mean, rstd = saved
    if x.dtype != xp.float32:
        return NotImplemented
    (dx, dweight, dbias), add = targets(
        xp,
        totals,
        x.shape,
        None if weight is None else weight.shape,
        x.shape[-1:] if has_bias else None,
    )
    lib.layer_norm_backward(
        rows(xp, grad),
        rows(xp, x),
        contiguous(xp, weight),
        xp.ascontiguousarray(mean).reshape(-1),
        xp.ascontiguousarray(rstd).reshape(-1),
        dx.reshape(-1, x.shape[-1]),
        dweight,
        dbias,
        add,
    )
    return dx, dweight, dbias


def rms_norm_kernel_forward(lib, xp, x, weight=None, *, eps=1e-6):
    if x.dtype != xp.float32:
        return NotImplemented
    out, rstd = xp.empty(x.shape, x.dtype), xp.empty(x.shape[:-1], x.dtype)
    lib.rms_norm_forward(
        rows(xp, x),
        contiguous(xp, weight),
        eps,
        out.reshape(-1, x.shape[-1]),
        rstd.reshape(-1),
    )
    return out, (x, weight, rstd)


def rms_norm_kernel_backward(lib, xp, grad, saved, totals, *, eps=1e-6):
    x, weight, rstd = saved
    if x.dtype != xp.float32:
        return NotImplemented
    weight_shape = None if weight is None else weight.shape
    (dx, dweight), add = targets(xp, totals, x.shape, weight_shape)
    lib.rms_norm_backward(
        rows(xp, grad),
        rows(xp, x),
        contiguous(xp, weight),
        xp.ascontiguousarray(rstd).reshape(-1),
        dx.reshape(-1, x.shape[-1]),
        dweight,
        add,
    )
    return dx, dweight


def layer_norm_sample(draw):
    width = draw.size("C", low=1)
    x = draw.normal(*draw.shape(dims=draw.choice((0, 1, 2))), width)
    weight = draw.normal(width) if draw.boolean() else None
    bias = draw.normal(width) if draw.boolean() else None
    return [x, weight, bias], {"eps": draw.choice((1e-5, 1e-12))}


def rms_norm_sample(draw):
    (x, weight, _), params = layer_norm_sample(draw)
    return [x, weight], params


layer_norm = Op(
    layer_norm_forward,
    layer_norm_backward,
    layer_norm_sample,
    check=layer_norm_check,
    kernel_forward=layer_norm_kernel_forward,
    kernel_backward=layer_norm_kernel_backward,
    accumulates=(0, 1, 2),
)
rms_norm = Op(
    rms_norm_forward,
    rms_norm_backward,
    rms_norm_sample,
    check=rms_norm_check,
    kernel_forward=rms_norm_kernel_forward,
    kernel_backward=rms_norm_kernel_backward,
    accumulates=(0, 1),
)

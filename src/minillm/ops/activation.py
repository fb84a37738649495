"""Activations, elementwise."""

from __future__ import annotations

import functools
import math

import numpy

from minillm.op import Op

SQRT_HALF = math.sqrt(0.5)
SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
LIMIT = 1e4  # beyond it a gate is exactly 0 or 1; clipping there makes inf * 0 the limit 0


def sample(draw):
    return [draw.normal(*draw.shape()) * draw.choice((1.0, 4.0))], {}


def relu_sample(draw):
    return [draw.distinct(*draw.shape())], {}


def relu_forward(xp, x):
    """max(x, 0); the gradient at 0 is 0"""
    return xp.maximum(x, x.dtype.type(0)), (x,)


def relu_backward(xp, grad, saved):
    (x,) = saved
    return (xp.where(x > 0, grad, grad.dtype.type(0)),)


def tanh_forward(xp, x):
    """tanh(x)"""
    out = xp.tanh(x)
    return out, (out,)


def tanh_backward(xp, grad, saved):
    (out,) = saved
    return (grad * (1 - out * out),)


def gate(xp, x):
    """1 / (1 + e**-x), without overflow on either side"""
    decay = xp.exp(-xp.abs(x))
    return xp.where(x < 0, decay, x.dtype.type(1)) / (1 + decay)


def sigmoid_forward(xp, x):
    """1 / (1 + e**-x)"""
    out = gate(xp, x)
    return out, (out,)


def sigmoid_backward(xp, grad, saved):
    (out,) = saved
    return (grad * out * (1 - out),)


def silu_forward(xp, x):
    """x * sigmoid(x) (Elfwing et al. 2017)"""
    return xp.maximum(x, -LIMIT) * gate(xp, x), (x,)


def silu_backward(xp, grad, saved):
    x = xp.clip(saved[0], -LIMIT, LIMIT)
    return (grad * gate(xp, x) * (1 + x * gate(xp, -x)),)  # 1 - gate(x), without cancellation


def silu_kernel_forward(lib, xp, x):
    if x.dtype != xp.float32:
        return NotImplemented
    out = xp.empty(x.shape, x.dtype)
    lib.silu_forward(xp.ascontiguousarray(x).reshape(-1), out.reshape(-1))
    return out, (x,)


def silu_kernel_backward(lib, xp, grad, saved):
    (x,) = saved
    if x.dtype != xp.float32:
        return NotImplemented
    dx = xp.empty(x.shape, x.dtype)
    lib.silu_backward(
        xp.ascontiguousarray(grad).reshape(-1), xp.ascontiguousarray(x).reshape(-1), dx.reshape(-1)
    )
    return (dx,)


def normal_cdf(xp, x):
    """Phi(x) in x's precision, relative precision in both tails."""
    if xp is not numpy:
        from cupyx.scipy.special import ndtr

        return ndtr(x)
    return numpy.asarray(_normal_cdf(x.astype(numpy.float64)), x.dtype)


def _normal_cdf(x):
    """Phi in float64: a Maclaurin series for erf near 0, else the complement through erfcx.

    erfcx(z) = exp(z**2) erfc(z) is smooth in t = 2 / (1 + z / 2) - 1 (Numerical Recipes, section
    6.2); its Chebyshev coefficients are fitted once.
    """
    z = numpy.minimum(numpy.abs(x) * SQRT_HALF, 40.0)
    square = numpy.minimum(z, 1.0) ** 2
    near = 0.5 + 0.5 * numpy.copysign(z, x) * numpy.polynomial.polynomial.polyval(square, _SERIES)
    t = 2.0 / (1.0 + 0.5 * z) - 1.0
    tail = 0.5 * numpy.exp(-z * z) * numpy.polynomial.chebyshev.chebval(t, _erfcx_coefficients())
    far = numpy.where(x < 0, tail, 1.0 - tail)
    return numpy.where(numpy.isnan(x), x, numpy.where(z < 0.5, near, far))


_SERIES = [
    2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(15)
]


@functools.cache
def _erfcx_coefficients():
    count = 40
    nodes = numpy.cos(numpy.pi * (numpy.arange(count) + 0.5) / count)
    values = [_erfcx(2 * (2 / (t + 1) - 1)) for t in nodes]
    return numpy.polynomial.chebyshev.chebfit(nodes, values, count - 1)


def _erfcx(z):
    if z < 5:
        return math.exp(z * z) * math.erfc(z)
    fraction = 0.0  # the continued fraction of Abramowitz and Stegun 7.1.14
    for k in range(60, 0, -1):
        fraction = 0.5 * k / (z + fraction)
    return 1 / ((z + fraction) * math.sqrt(math.pi))


def gelu_forward(xp, x, *, approximate="none"):
    """x * Phi(x) (Hendrycks and Gimpel 2016): exact, or GPT-2's tanh form (approximate="tanh")"""
    return xp.maximum(x, -LIMIT) * gate_of(xp, x, approximate), (x,)


def gate_of(xp, x, approximate):
    """Phi(x), or its tanh form (1 + tanh(u)) / 2, which is sigmoid(2u)."""
    return gate(xp, bent(x)) if approximate == "tanh" else normal_cdf(xp, x)


def bent(x):
    """2u of GPT-2's tanh form."""
    return 2 * SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)


def gelu_backward(xp, grad, saved, *, approximate="none"):
    x = xp.clip(saved[0], -LIMIT, LIMIT)
    open_ = gate_of(xp, x, approximate)
    if approximate == "tanh":
        slope = 2 * SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x * x)
        bend = open_ * gate(xp, -bent(x)) * slope
    else:
        bend = INV_SQRT_2PI * xp.exp(-0.5 * x * x)
    return (grad * (open_ + x * bend),)


def gelu_check(x, *, approximate="none"):
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate={approximate!r}, 'none' or 'tanh' is needed")


def gelu_kernel_forward(lib, xp, x, *, approximate="none"):
    if x.dtype != xp.float32:
        return NotImplemented
    out = xp.empty(x.shape, x.dtype)
    lib.gelu_forward(xp.ascontiguousarray(x).reshape(-1), approximate == "tanh", out.reshape(-1))
    return out, (x,)


def gelu_kernel_backward(lib, xp, grad, saved, *, approximate="none"):
    (x,) = saved
    if x.dtype != xp.float32:
        return NotImplemented
    dx = xp.empty(x.shape, x.dtype)
    lib.gelu_backward(
        xp.ascontiguousarray(grad).reshape(-1),
        xp.ascontiguousarray(x).reshape(-1),
        approximate == "tanh",
        dx.reshape(-1),
    )
    return (dx,)


def gelu_sample(draw):
    return sample(draw)[0], {"approximate": draw.choice(("none", "tanh"))}


relu = Op(relu_forward, relu_backward, relu_sample)
tanh = Op(tanh_forward, tanh_backward, sample)
sigmoid = Op(sigmoid_forward, sigmoid_backward, sample)
silu = Op(
    silu_forward,
    silu_backward,
    sample,
    kernel_forward=silu_kernel_forward,
    kernel_backward=silu_kernel_backward,
)
gelu = Op(
    gelu_forward,
    gelu_backward,
    gelu_sample,
    check=gelu_check,
    kernel_forward=gelu_kernel_forward,
    kernel_backward=gelu_kernel_backward,
)

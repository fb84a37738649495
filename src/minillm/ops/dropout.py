"""Dropout whose mask is a function of (seed, position): not stored, the same on every device."""

from __future__ import annotations

from minillm.op import Op

GOLDEN = 0x9E3779B97F4A7C15
MASK_64 = (1 << 64) - 1


def random_bits(xp, seed, count):
    """Outputs 1 to `count` of SplitMix64 from `seed` (Steele, Lea and Flood 2014), as uint64.

    The seed is a number, or an array (1,) of uint64 that is read when this is computed.
    """
    z = xp.arange(1, count + 1, dtype=xp.uint64)
    z *= xp.uint64(GOLDEN)
    z += xp.uint64(seed & MASK_64) if isinstance(seed, int) else seed
    z ^= z >> xp.uint64(30)
    z *= xp.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> xp.uint64(27)
    z *= xp.uint64(0x94D049BB133111EB)
    z ^= z >> xp.uint64(31)
    return z


def masked(xp, x, p, seed):
    kept = (random_bits(xp, seed, x.size) >> xp.uint64(40)) >= xp.uint64(threshold(p))
    scale = x.dtype.type(1 / (1 - p))
    return xp.where(kept.reshape(x.shape), x * scale, x.dtype.type(0))


def threshold(p):
    """The smallest 24-bit integer n with n / 2**24 >= p."""
    return -int(-p * (1 << 24) // 1)


def dropout_forward(xp, x, *, p, seed):
    """Each element 0 with probability p, else divided by 1 - p (Srivastava et al. 2014)"""
    return masked(xp, x, p, seed), ()


def dropout_backward(xp, grad, saved, *, p, seed):
    return (masked(xp, grad, p, seed),)


def check(x, *, p, seed):
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p={p}, 0 <= p < 1 is needed")


def dropout_kernel_forward(lib, xp, x, *, p, seed):
    if x.dtype != xp.float32:
        return NotImplemented
    out = xp.empty(x.shape, x.dtype)
    flat, at = xp.ascontiguousarray(x).reshape(-1), for_kernels(xp, seed)
    lib.dropout_forward(flat, p, at, out.reshape(-1))
    return out, ()


def dropout_kernel_backward(lib, xp, grad, saved, *, p, seed):
    if grad.dtype != xp.float32:
        return NotImplemented
    dx = xp.empty(grad.shape, grad.dtype)
    flat, at = xp.ascontiguousarray(grad).reshape(-1), for_kernels(xp, seed)
    lib.dropout_backward(flat, p, at, dx.reshape(-1))
    return (dx,)


def for_kernels(xp, seed):
    return seed & MASK_64 if isinstance(seed, int) else seed.view(xp.int64)


def sample(draw):
    p = draw.choice((0.0, 0.1, 0.5, 0.9))
    return [draw.normal(*draw.shape())], {"p": p, "seed": draw.choice((0, 7, MASK_64))}


dropout = Op(
    dropout_forward,
    dropout_backward,
    sample,
    check=check,
    kernel_forward=dropout_kernel_forward,
    kernel_backward=dropout_kernel_backward,
)

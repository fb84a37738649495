"""AdamW whose moments take a byte each, in place and without a gradient."""

from __future__ import annotations

from minillm.op import Op
from minillm.ops.update import adamw_forward, by_kernel
from minillm.ops.update import check as check_shapes

BLOCK = 256  # moments that share a scale
STRETCH = 1 << 18  # of them decoded at once
LARGEST_M, LARGEST_V = 127, 255  # codes
STATE = ("m", "m_scale", "v", "v_scale")


def adamw8bit_forward(xp, *arrays, **options):
    """AdamW with m = ±(|c| / 127)² of a scale and v = (c / 255)⁴ (cf. Dettmers et al. 2022)

    arrays: param, grad, m int8 (n), m_scale (n / 256, rounded up), v uint8 (n), v_scale of every
    parameter of n elements; options: those of adamw. All but grad change in place. A scale is the
    largest of its block; the root makes small moments keep digits. A v that is not 0 has a code
    that is not 0, which bounds the step. The update itself takes the moments before they are
    encoded.
    """
    for start in range(0, len(arrays), 6):
        param, grad, m, m_scale, v, v_scale = arrays[start : start + 6]
        flat, slope = param.reshape(-1), grad.reshape(-1)
        for begin in range(0, flat.size, STRETCH):
            part = slice(begin, begin + STRETCH)
            scales = slice(begin // BLOCK, (begin + STRETCH) // BLOCK)
            first = decoded(xp, m[part], m_scale[scales], 2, LARGEST_M, param.dtype)
            second = decoded(xp, v[part], v_scale[scales], 4, LARGEST_V, param.dtype)
            adamw_forward(xp, flat[part], slope[part], first, second, **options)
            encode(xp, first, m[part], m_scale[scales], 2, LARGEST_M)
            encode(xp, second, v[part], v_scale[scales], 4, LARGEST_V)
        if not param.flags.c_contiguous:  # flat is a copy
            param[...] = flat.reshape(param.shape)
    return arrays[0], ()


def decoded(xp, codes, scales, power, largest, dtype):
    """Numbers: sign(c) (|c| / largest) ** power of the block's scale."""
    share = codes.astype(dtype) / largest
    numbers = share * xp.abs(share) if power == 2 else (share * share) ** 2
    return numbers * xp.repeat(scales, BLOCK)[: len(codes)]


def encode(xp, numbers, codes, scales, power, largest):
    """Write the codes and scales of numbers: the reverse of `decoded`."""
    size = xp.abs(numbers)
    padded = xp.zeros(len(scales) * BLOCK, size.dtype)
    padded[: len(size)] = size
    scales[:] = padded.reshape(-1, BLOCK).max(axis=1)
    whole = xp.repeat(xp.where(scales > 0, scales, 1), BLOCK)[: len(size)]
    share = xp.sqrt(size / whole)
    if power == 4:
        share = xp.sqrt(share)
    found = xp.rint(share * largest)
    if power == 4:
        found = xp.maximum(found, size > 0)
    codes[:] = xp.copysign(found, numbers)


def adamw8bit_kernel_forward(lib, xp, *arrays, grad_scale=1.0, **rates):
    f32 = xp.float32
    types = (f32, f32, xp.int8, f32, xp.uint8, f32)
    options = {**rates, "grad_scale": grad_scale}
    return by_kernel(lib.adamw8bit_forward, adamw8bit_forward, xp, arrays, types, options)


def adamw8bit_check(*arrays, **params):
    if not arrays or len(arrays) % 6:
        raise ValueError(
            f"adamw8bit: {len(arrays)} arrays, param, grad, {', '.join(STATE)} of every parameter "
            "are needed"
        )
    for start in range(0, len(arrays), 6):
        param, grad, *state = arrays[start : start + 6]
        check_shapes("adamw8bit", (param, grad), "param", "grad")
        scales = (-(-param.size // BLOCK),)
        for name, array, shape in zip(STATE, state, ((param.size,), scales) * 2):
            if array.shape != shape:
                raise ValueError(f"adamw8bit: {name} {array.shape}, {shape} is needed")
    if params["step"] < 1:
        raise ValueError(f"adamw8bit: step {params['step']}, 1 or more is needed")


def adamw8bit_sample(draw):
    """Gradients of many sizes; moments that such could have left, |m| not far above sqrt(v)."""
    arrays = []
    for _ in range(draw.choice((1, 2, 3))):
        shape = draw.shape()
        param, grad = draw.normal(*shape), draw.normal(*shape) * draw.positive(*shape) ** 8
        scales = -(-param.size // BLOCK)
        v = draw.integers(LARGEST_V + 1, param.size) * draw.mask(param.size)
        m = v // 2 * (draw.integers(3, param.size) - 1)
        codes = m.astype("int8"), v.astype("uint8")
        arrays += [param, grad, codes[0], draw.positive(scales), codes[1], draw.positive(scales)]
    return arrays, {
        "lr": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-8,
        "weight_decay": draw.choice((0.0, 0.1)),
        "step": draw.choice((1, 2, 100)),
        "grad_scale": draw.choice((1.0, 0.25)),
    }


adamw8bit = Op(
    adamw8bit_forward,
    None,
    adamw8bit_sample,
    check=adamw8bit_check,
    kernel_forward=adamw8bit_kernel_forward,
    mutates=(0, 2, 3, 4, 5),
    group_size=6,
)

"""Scaled rotary frequencies: `rope_scaling` of config.json, and what GGUF has for it."""

from __future__ import annotations

from typing import Any

import numpy

from minillm import nn
from minillm.models.gguf_keys import Content, Keys, Metadata

ORIGINAL = "original_max_position_embeddings"
FREE = None
HELD: dict[str, Content] = {  # what a kind of scaling may say: anything, or this value alone
    "default": {},
    "linear": {"factor": FREE, ORIGINAL: FREE},
    "yarn": {"factor": FREE, ORIGINAL: FREE, "beta_fast": 32, "beta_slow": 1, "truncate": True},
    "llama3": {"factor": FREE, ORIGINAL: FREE, "low_freq_factor": FREE, "high_freq_factor": FREE},
}
# Llama 3's scaling is stored as factors alone; these are what every published model made them with.
LLAMA3: Content = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, ORIGINAL: 8192}


def read_scaling(keys: Keys, head_dim: int, factors: Any) -> Content | None:
    """`rope_scaling` of config.json."""
    old = keys.get("rope.scale_linear", float, 1.0)
    kind = keys.get("rope.scaling.type", str, "linear" if old != 1.0 else "none")
    factor = keys.get("rope.scaling.factor", float, old)
    if factors is not None:
        if kind != "none":
            raise ValueError(f"gguf: rope_freqs.weight beside rope.scaling.type={kind!r}")
        if numpy.equal(factors, 1).all():
            return None
        base = keys.get("rope.freq_base", float, 10000.0)
        scaling = llama3_scaling(base, head_dim, factors)
        if scaling is None:
            raise ValueError("gguf: rope_freqs.weight is not implemented, but for Llama 3.1's")
        return scaling
    if kind == "none":
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = keys.get("rope.scaling.original_context_length", int)
        return {"rope_type": "yarn", "factor": factor, ORIGINAL: original}
    raise ValueError(f"gguf: {keys.arch}.rope.scaling.type={kind!r} is not implemented")


def write_scaling(content: Content) -> tuple[Metadata, numpy.ndarray | None]:
    """Rotary settings; frequencies' factors for Llama 3's kind, which has no settings in GGUF."""
    rope = dict(content.get("rope_parameters") or content.get("rope_scaling") or {})
    base = float(rope.pop("rope_theta", content.get("rope_theta", 10000.0)))
    kind = rope.pop("rope_type", "default")
    metadata: Metadata = {"rope.freq_base": base}
    if kind not in HELD:
        raise ValueError(f"gguf: rope_scaling of type {kind!r} cannot be held")
    for name, value in rope.items():
        if name not in HELD[kind] or HELD[kind][name] not in (FREE, value):
            raise ValueError(f"gguf: rope_scaling {kind} with {name}={value!r} cannot be held")
    if kind == "default":
        return metadata, None
    context, head_dim = content["max_position_embeddings"], content["head_dim"]
    rope = {ORIGINAL: context} | rope
    if kind == "llama3":
        factors = llama3_factors(base, head_dim, rope).astype(numpy.float32)
        if llama3_scaling(base, head_dim, factors) != {"rope_type": kind} | rope:
            raise ValueError(f"gguf: rope_scaling {rope} cannot be held, only that of Llama 3.1 is")
        return metadata, factors
    factor = float(rope.get("factor", context / rope[ORIGINAL]))
    metadata |= {"rope.scaling.type": kind, "rope.scaling.factor": factor}
    if kind == "yarn":
        metadata["rope.scaling.original_context_length"] = rope[ORIGINAL]
    return metadata, None


def llama3_factors(base: float, head_dim: int, scaling: Content) -> numpy.ndarray:
    """What Llama 3.1's scaling divides each rotary frequency by, float64 (head_dim / 2,)."""
    original = scaling[ORIGINAL]
    plain, scaled = (
        nn.Rotary(head_dim, original, {"rope_theta": base} | parameters)
        for parameters in ({}, {"rope_type": "llama3"} | scaling)
    )
    return plain.frequencies(1, numpy.float64) / scaled.frequencies(1, numpy.float64)


def llama3_scaling(base: float, head_dim: int, factors: Any) -> Content | None:
    """Llama 3.1's scaling, if the factors are what it gives, else None."""
    stored = numpy.asarray(factors, numpy.float64)
    scaling = LLAMA3 | {"rope_type": "llama3", "factor": float(stored.max(initial=1.0))}
    expected = llama3_factors(base, head_dim, scaling)
    same = stored.shape == expected.shape and numpy.allclose(stored, expected, rtol=1e-5)
    return scaling if same else None

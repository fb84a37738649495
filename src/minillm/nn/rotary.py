"""Rotary position embeddings (Su et al. 2021, RoFormer) and the ways their angles are scaled.

The names and formulas are those of Hugging Face's `rope_parameters`. Everything is computed in the
model's precision, step by step as there: at position 8000 the cosine of an angle that was kept in
float64 differs by 5e-4 from the float32 one that a model was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy

from minillm import ops
from minillm.arrays import Array, placed, xp_of
from minillm.tensor import Tensor

ORIGINAL = "original_max_position_embeddings"
EVERY_KIND = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
KINDS: dict[str, tuple[set[str], set[str]]] = {  # what each kind needs, and what it may have
    "default": (set(), set()),
    "linear": ({"factor"}, {ORIGINAL}),
    "dynamic": ({"factor"}, set()),
    "yarn": (
        set(),
        {"factor", ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale"}
        | {"mscale_all_dim", "truncate", "finetuned"},
    ),
    "longrope": ({"short_factor", "long_factor"}, {"factor", ORIGINAL, "attention_factor"}),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor"}, {ORIGINAL}),
}
FLAGS = {"truncate", "finetuned"}
LISTS = {"short_factor", "long_factor"}


class Angles(NamedTuple):
    """cos and sin, each (T, D/2), of the angles of consecutive positions."""

    cos: Array
    sin: Array

    def turn(self, x: Tensor) -> Tensor:
        """x (B, H, T, D) with each pair (i, i + D/2) of its features turned."""
        return ops.rotary_embedding(x, self.cos, self.sin)


class Rotary:
    """The angles of a model with heads of `size` features and `positions` max_position_embeddings.

    `parameters` are Hugging Face's `rope_parameters`: rope_type, rope_theta and what the kind of
    scaling needs. `context` is how many positions are meant to be used: linear, dynamic and yarn
    reach `factor` times further than the original positions.

    ValueError for an unknown kind, an unknown setting of a kind, one missing or out of range.
    """

    def __init__(self, size: int, positions: int, parameters: Mapping[str, Any]) -> None:
        self.kind = parameters.get("rope_type") or parameters.get("type") or "default"
        self.size, self.positions = size, positions
        self.given = {name: value for name, value in parameters.items() if value is not None}
        check(self.kind, size, self.given)
        self.theta = float(self.given.get("rope_theta", 10000.0))
        self.original = self.given.get(ORIGINAL, positions)
        self.factor = float(self.given.get("factor", positions / self.original))
        reach = (
            int(self.factor * self.original) if self.kind in ("linear", "dynamic", "yarn") else 0
        )
        self.context = max(positions, reach)

    @property
    def depends_on_length(self) -> bool:
        """Whether all angles change once a text is longer than the original positions.

        A cache then holds what was computed with the angles of shorter texts, here as in
        transformers: beyond those positions the logits depend on the pieces a text is read in.
        """
        return self.kind in ("dynamic", "longrope")

    def frequencies(self, length: int, dtype: Any) -> numpy.ndarray:
        """Radians per position (D/2) of each pair, in a text of `length` positions."""
        return FREQUENCIES[self.kind](self, length, numpy.dtype(dtype).type)

    def angles(self, start: int, end: int, like: Array) -> Angles:
        """Of the positions from `start` up to `end`, the end of the text so far.

        The tables have the dtype and device of `like`.
        """
        steps = self.frequencies(end, like.dtype)
        turns = numpy.arange(start, end).astype(like.dtype)[:, None] * steps
        scale = like.dtype.type(self.attention_factor)
        xp = xp_of(like)
        cos, sin = numpy.cos(turns) * scale, numpy.sin(turns) * scale
        return Angles(placed(xp, cos), placed(xp, sin))

    @property
    def attention_factor(self) -> float:
        """By what cos and sin are multiplied, so that scores keep their spread."""
        if self.kind not in ("yarn", "longrope"):
            return 1.0
        if "attention_factor" in self.given:
            return float(self.given["attention_factor"])
        if self.kind == "yarn":
            over, under = (self.given.get(name) for name in ("mscale", "mscale_all_dim"))
            if over is None or under is None:
                return yarn_scale(self.factor, 1.0)
            return yarn_scale(self.factor, over) / yarn_scale(self.factor, under)
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original))


def yarn_scale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def plain(rotary: Rotary, real: Any, theta: float | None = None) -> numpy.ndarray:
    """theta ** (-2i / D) for each pair i."""
    powers = numpy.arange(0, rotary.size, 2).astype(real) / real(rotary.size)
    return 1 / real(theta or rotary.theta) ** powers


def default(rotary: Rotary, length: int, real: Any) -> numpy.ndarray:
    return plain(rotary, real)


def linear(rotary: Rotary, length: int, real: Any) -> numpy.ndarray:
    """Positions counted `factor` times more slowly (Chen et al. 2023)."""
    return plain(rotary, real) / real(rotary.factor)


def dynamic(rotary: Rotary, length: int, real: Any) -> numpy.ndarray:
    """NTK-aware: beyond `positions`, a base that grows with the length (bloc97 2023)."""
    length = max(length, rotary.positions)
    growth = rotary.factor * length / rotary.positions - (rotary.factor - 1)
    return plain(rotary, real, rotary.theta * growth ** (rotary.size / (rotary.size - 2)))


def yarn(rotary: Rotary, length: int, real: Any) -> numpy.ndarray:
    """Fast pairs as they are, slow ones slower by `factor`, a ramp between (Peng et al. 2023)."""

    def place(turns: float) -> float:
        """The pair, not whole, that turns so often within the original positions."""
        waves = rotary.original / (turns * 2 * math.pi)
        return rotary.size * math.log(waves) / (2 * math.log(rotary.theta))

    low = place(rotary.given.get("beta_fast", 32))
    high = place(rotary.given.get("beta_slow", 1))
    if rotary.given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary.size - 1)
    if low == high:
        high += 0.001
    pairs = numpy.arange(rotary.size // 2).astype(real)
    kept = 1 - numpy.clip((pairs - real(low)) / real(high - low), real(0), real(1))
    periods = real(rotary.theta) ** (2 * pairs / real(rotary.size))
    return 1 / (real(rotary.factor) * periods) * (1 - kept) + 1 / periods * kept


def longrope(rotary: Rotary, length: int, real: Any) -> numpy.ndarray:
    """A factor a pair, one list up to the original positions, one beyond (Ding et al. 2024)."""
    name = "long_factor" if length > rotary.original else "short_factor"
    powers = numpy.arange(0, rotary.size, 2).astype(real) / real(rotary.size)
    return 1 / (numpy.asarray(rotary.given[name], real) * real(rotary.theta) ** powers)


def llama3(rotary: Rotary, length: int, real: Any) -> numpy.ndarray:
    """Long waves slower by `factor`, short ones as they are, a ramp between (Llama 3.1, 2024)."""
    steps = plain(rotary, real)
    low, high = real(rotary.given["low_freq_factor"]), real(rotary.given["high_freq_factor"])
    factor, original = real(rotary.factor), real(rotary.original)
    wave = real(2 * math.pi) / steps
    kept = (original / wave - low) / (high - low)
    ramp = (1 - kept) * steps / factor + kept * steps
    return numpy.where(
        wave > original / low,
        steps / factor,
        numpy.where(wave < original / high, steps, ramp),
    )


FREQUENCIES: dict[str, Callable[[Rotary, int, Any], numpy.ndarray]] = {
    "default": default,
    "linear": linear,
    "dynamic": dynamic,
    "yarn": yarn,
    "longrope": longrope,
    "llama3": llama3,
}


def check(kind: Any, size: int, given: Mapping[str, Any]) -> None:
    """ValueError unless the settings belong to the kind and have values it can use."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"rope: rope_type {kind!r}, one of {', '.join(KINDS)} is needed")
    least = 4 if kind == "dynamic" else 2
    if size % 2 or size < least:
        raise ValueError(f"rope: heads of {size} features, an even number from {least} is needed")
    needed, possible = KINDS[kind]
    for name in sorted(needed - given.keys()):
        raise ValueError(f"rope: {kind} without {name}, which it needs")
    for name in sorted(given.keys() - needed - possible - EVERY_KIND):
        raise ValueError(f"rope: {name}={given[name]!r} is not implemented for {kind}")
    if given.get("partial_rotary_factor", 1.0) != 1.0:
        share = given["partial_rotary_factor"]
        raise ValueError(f"rope: partial_rotary_factor={share!r} is not implemented")
    for name in sorted(given.keys() - {"rope_type", "type"}):
        fits, what = kind_of_value(name, given[name], size)
        if not fits:
            raise ValueError(f"rope: {name} is {given[name]!r}, {what} is needed")
    if kind == "yarn" and given.get("rope_theta") == 1:
        raise ValueError("rope: yarn with rope_theta=1, another number is needed")
    if kind == "llama3" and given["low_freq_factor"] >= given["high_freq_factor"]:
        raise ValueError(
            f"rope: low_freq_factor {given['low_freq_factor']} and high_freq_factor "
            f"{given['high_freq_factor']}, the second must be larger"
        )


def kind_of_value(name: str, value: Any, size: int) -> tuple[bool, str]:
    """Whether `value` may stand for `name`, and what may."""
    if name in FLAGS:
        return isinstance(value, bool), "true or false"
    if name in LISTS:
        fits = isinstance(value, list | tuple) and len(value) == size // 2
        return fits and all(map(positive, value)), f"a list of {size // 2} numbers above 0"
    if name == ORIGINAL:
        return type(value) is int and value > 0, "a whole number from 1"
    return positive(value), "a number above 0"


def positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def half_split(weight: Array, heads: int) -> Array:
    """Rows of a query or key projection from interleaved pairs (2i, 2i + 1) to (i, i + D/2).

    weight (H * D, in), or a bias (H * D), as GGUF files of the llama architecture, llama2.c and
    Meta's originals have it; the result is a copy as Hugging Face's files and this package have it.
    """
    rows = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def interleaved(weight: Array, heads: int) -> Array:
    """The reverse of `half_split`."""
    rows = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return rows.swapaxes(1, 2).reshape(weight.shape)

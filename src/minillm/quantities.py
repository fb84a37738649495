"""Durations, counts and sizes as a person reads them."""

from __future__ import annotations

import math

MINUTE, HOUR, DAY = 60, 3600, 86400


def duration(seconds: float) -> str:
    """Seconds as `0.4s`, `42s`, `2m10s`, `3h05m` or `2d04h`. ValueError below 0 or not finite."""
    _require_finite("duration", seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole}s"
    if whole < HOUR:
        return f"{whole // MINUTE}m{whole % MINUTE:02d}s"
    minutes = round(seconds / MINUTE)
    if minutes < DAY // MINUTE:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    hours = round(seconds / HOUR)
    return f"{hours // 24}d{hours % 24:02d}h"


def count(n: float) -> str:
    """A number of things as `950`, `31.2k`, `1.9M`, `124M`, `7.0B` or `1.4T`.

    ValueError below 0 or not finite.
    """
    _require_finite("count", n)
    return _scaled(n, ("", "k", "M", "B", "T"))


def counted(n: int, thing: str) -> str:
    """`1 token`, `2 tokens`, `1,024 tokens`."""
    return f"{n:,} {thing}{'s' * (n != 1)}"


def size(n_bytes: float) -> str:
    """Bytes in decimal units as `800 B`, `412 MB` or `1.9 GB`. ValueError below 0 or not finite."""
    _require_finite("size", n_bytes)
    return _scaled(n_bytes, (" B", " kB", " MB", " GB", " TB"))


def number(x: float, digits: int = 4) -> str:
    """A measured value with `digits` significant digits: `2.013`, `0.0003`, `6e-5`, `1.2e7`."""
    text = f"{x:.{digits}g}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text


def decimal(x: float, places: int = 3) -> str:
    """A loss or score to `places` decimals, `2.013`; very small and large ones as `number`."""
    return f"{x:.{places}f}" if x == 0 or 10.0**-places <= abs(x) < 1000 else number(x)


def _scaled(n: float, units: tuple[str, ...]) -> str:
    """Three figures and the unit; the rounded value never reaches 1000 while a unit is left."""
    if n < 999.5:
        return f"{n:.0f}{units[0]}" if n == int(n) or n >= 99.95 else f"{n:.1f}{units[0]}"
    for unit in units[1:]:
        n /= 1000
        if n < 99.95:
            return f"{n:.1f}{unit}"
        if n < 999.5:
            return f"{n:.0f}{unit}"
    return f"{n:,.0f}{units[-1]}"


def _require_finite(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: got {value}, needs a finite number of at least 0")

"""Sines and cosines that tell positions apart (Vaswani et al. 2017, section 3.5)."""

from __future__ import annotations

import math

import numpy

LAYOUTS = ("interleaved", "halves")


def sinusoidal_positions(
    positions: numpy.ndarray, width: int, layout: str = "interleaved"
) -> numpy.ndarray:
    """Encodings (T, width) of positions (T), float64.

    "interleaved": sin and cos of position / 10000**(2i/width) in turn, as in the paper. "halves":
    all sines, then all cosines, the frequencies evenly spaced from 1 down to 1/10000 inclusive, as
    in tensor2tensor and OpenNMT. ValueError for an odd width or (halves) one below 4.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"sinusoidal_positions: {layout!r}, one of {', '.join(LAYOUTS)} is needed")
    if width % 2 or width < (4 if layout == "halves" else 2):
        raise ValueError(f"sinusoidal_positions: width {width}, an even one from 4 is needed")
    half = width // 2
    steps = half if layout == "interleaved" else half - 1
    frequencies = numpy.exp(-math.log(10000.0) / steps * numpy.arange(half))
    angles = numpy.asarray(positions, numpy.float64)[:, None] * frequencies
    waves = numpy.sin(angles), numpy.cos(angles)
    if layout == "halves":
        return numpy.concatenate(waves, axis=1)
    return numpy.stack(waves, axis=2).reshape(len(angles), width)

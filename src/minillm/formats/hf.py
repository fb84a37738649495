"""A model folder in Hugging Face layout: config.json, model.safetensors, tokenizer.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from minillm.formats.files import atomic_write_text
from minillm.formats.safetensors import distinct

REFERENCE = "reference_logits"
PROMPT_LENGTH = 8
TOLERANCE = 1e-3
LARGEST_JSON = 1 << 24  # bytes


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON object, or an array for kind=list; one-line ValueError for anything else."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON} bytes")
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, kind):
        wanted = "object" if kind is dict else "array"
        raise ValueError(f"{path}: a JSON {wanted} is needed, this is a {type(content).__name__}")
    return content


def write_json(path: Path, content: Any) -> None:
    atomic_write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def reference_prompt(vocab_size: int, context: int | None) -> numpy.ndarray:
    """A fixed short prompt (1, T) spread over the vocabulary."""
    length = min(PROMPT_LENGTH, context or PROMPT_LENGTH)
    return (numpy.arange(length, dtype=numpy.int64) * 7919 % vocab_size)[None]


def reference_metadata(outputs: numpy.ndarray) -> dict[str, str]:
    """Metadata that keep what a model gives for the reference prompt, (1, T, V) or (1, V)."""
    return {REFERENCE: json.dumps([round(float(x), 6) for x in _kept(outputs)])}


def _kept(outputs: numpy.ndarray) -> numpy.ndarray:
    """The first of the last position."""
    last = numpy.atleast_2d(numpy.asarray(outputs, numpy.float64)[0])[-1]
    return last[: min(64, len(last))]


def reference_difference(
    metadata: dict[str, Any],
    logits: Callable[[numpy.ndarray], numpy.ndarray],
    vocab_size: int,
    context: int | None,
) -> float | None:
    """Largest difference between the stored and the recomputed reference logits, None if none."""
    if REFERENCE not in metadata:
        return None
    try:
        stored = numpy.asarray(json.loads(metadata[REFERENCE]), numpy.float64)
    except (ValueError, TypeError, RecursionError):
        return math.inf
    now = _kept(logits(reference_prompt(vocab_size, context)))
    if not numpy.isfinite(now).all() or stored.ndim != 1 or stored.size > now.size:
        return math.inf
    return float(numpy.abs(now[: stored.size] - stored).max(initial=0.0))

"""A model folder in Hugging Face layout: config.json, model.safetensors, tokenizer.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from minillm.formats import safetensors
from minillm.formats.files import atomic_write_text

REFERENCE = "reference_logits"
PROMPT_LENGTH = 8
TOLERANCE = 1e-3


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON object, or an array for kind=list; one-line ValueError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, kind):
        wanted = "object" if kind is dict else "array"
        raise ValueError(f"{path}: a JSON {wanted} is needed, this is a {type(content).__name__}")
    return content


def write_json(path: Path, content: Any) -> None:
    atomic_write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def reference_prompt(vocab_size: int, context: int | None) -> numpy.ndarray:
    """A fixed short prompt (1, T) spread over the vocabulary; a context of None has no end."""
    length = PROMPT_LENGTH if context is None else min(PROMPT_LENGTH, context)
    return (numpy.arange(length, dtype=numpy.int64) * 7919 % vocab_size)[None]


def last(logits: numpy.ndarray) -> numpy.ndarray:
    """Those of (1, T, V) at the last position, or of (1, V) for the text, in float64."""
    return numpy.asarray(logits, numpy.float64).reshape(-1, logits.shape[-1])[-1]


def save_weights(
    folder: str | os.PathLike[str],
    arrays: dict[str, Any],
    logits: Callable[[numpy.ndarray], numpy.ndarray],
    vocab_size: int,
    context: int | None,
) -> None:
    """Write model.safetensors with the logits of the reference prompt in its metadata."""
    values = last(logits(reference_prompt(vocab_size, context)))
    shown = values[: min(64, len(values))]
    metadata = {"format": "pt", REFERENCE: json.dumps([round(float(x), 6) for x in shown])}
    safetensors.write(Path(folder) / "model.safetensors", arrays, metadata)


def reference_difference(
    metadata: dict[str, str],
    logits: Callable[[numpy.ndarray], numpy.ndarray],
    vocab_size: int,
    context: int | None,
) -> float | None:
    """Largest difference between the stored and the recomputed reference logits, None if none."""
    if REFERENCE not in metadata:
        return None
    stored = numpy.asarray(json.loads(metadata[REFERENCE]), numpy.float64)
    now = last(logits(reference_prompt(vocab_size, context)))
    if not numpy.isfinite(now).all() or stored.size > now.size:
        return float("inf")
    return float(numpy.abs(now[: stored.size] - stored).max(initial=0.0))

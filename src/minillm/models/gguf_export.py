"""A model and its tokenizer as a GGUF file that llama.cpp runs."""

from __future__ import annotations

import os
from typing import Any

import numpy

from minillm.arrays import to_numpy
from minillm.formats import gguf_writing
from minillm.models import FAMILIES
from minillm.models.gguf_keys import Metadata
from minillm.models.gguf_metadata import to_metadata
from minillm.models.gguf_names import EMBEDDING, HEAD, NAMES, POSITIONS, ROTARY_FACTORS, to_gguf
from minillm.tokenizers.gguf_vocabulary import UNUSED
from minillm.tokenizers.gguf_vocabulary import to_gguf as vocabulary_to_gguf

FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_1": 3}
FOUR_BITS = ("q4_0", "q4_1")


def write_gguf(path: str | os.PathLike[str], model: Any, tokenizer: Any, dtype: str) -> None:
    """Write the whole file, or nothing; `dtype` is one of FILE_TYPES.

    Matrices are written as `dtype`, but the embedding and the head as q8_0 beside four-bit ones,
    where they would lose most; vectors and positions as f32. `tokenizer` may be None, or the
    metadata `tokenizer.*` of another file. ValueError names what GGUF or llama.cpp cannot hold.
    """
    if dtype not in FILE_TYPES:
        raise ValueError(f"gguf: dtype {dtype!r}, one of {', '.join(FILE_TYPES)} is needed")
    content = model.config.to_hf()
    metadata, factors = to_metadata(content)
    arch = metadata["general.architecture"]
    metadata |= {"general.file_type": FILE_TYPES[dtype], "general.quantization_version": 2}
    metadata |= vocabulary(tokenizer, model.config.vocab_size)
    arrays = FAMILIES[content["model_type"]].to_files(model.state_dict(), model.config)
    tensors = {}
    for hf_name, array in arrays.items():
        name = NAMES[arch].gguf_name(hf_name)
        tensors[name] = (
            to_gguf(name, to_numpy(array), arch, content),
            _kind(name, array.ndim, dtype),
        )
    if factors is not None:
        tensors[ROTARY_FACTORS] = (factors, "F32")
    gguf_writing.write(path, metadata, tensors)


def _kind(name: str, rank: int, dtype: str) -> str:
    if rank == 1 or name == POSITIONS:
        return "F32"
    return "Q8_0" if dtype in FOUR_BITS and name in (EMBEDDING, HEAD) else dtype.upper()


def vocabulary(tokenizer: Any, vocab_size: int) -> Metadata:
    """The metadata of a tokenizer, ids that only the model has named as unused."""
    if tokenizer is None:
        return {"tokenizer.ggml.model": "no_vocab"}
    if isinstance(tokenizer, dict):
        return tokenizer
    metadata: Metadata = vocabulary_to_gguf(tokenizer)
    tokens, types = (metadata[f"tokenizer.ggml.{part}"] for part in ("tokens", "token_type"))
    missing = vocab_size - len(tokens)
    if missing < 0:
        raise ValueError(f"gguf: {len(tokens)} tokens for {vocab_size} embeddings, at most as many")
    tokens += [f"[PAD{id}]" for id in range(len(tokens), vocab_size)]
    metadata["tokenizer.ggml.token_type"] = numpy.append(
        types, numpy.full(missing, UNUSED, types.dtype)
    )
    if "tokenizer.ggml.scores" in metadata:
        scores = metadata["tokenizer.ggml.scores"]
        metadata["tokenizer.ggml.scores"] = numpy.append(scores, numpy.zeros(missing, scores.dtype))
    return metadata

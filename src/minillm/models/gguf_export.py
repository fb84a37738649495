"""A model and its tokenizer as a GGUF file that llama.cpp runs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

from minillm.arrays import to_numpy
from minillm.blocks import KINDS
from minillm.formats import gguf_writing
from minillm.models import FAMILIES
from minillm.models.gguf_keys import Metadata
from minillm.models.gguf_metadata import to_metadata
from minillm.models.gguf_names import EMBEDDING, HEAD, NAMES, POSITIONS, ROTARY_FACTORS, to_gguf
from minillm.quantities import counted
from minillm.tokenizers.gguf_roles import UNUSED
from minillm.tokenizers.gguf_vocabulary import to_gguf as vocabulary_to_gguf

FILE_TYPES = {  # general.file_type, by which llama.cpp names a file
    "f32": 0,
    "f16": 1,
    "bf16": 32,
    "q8_0": 7,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 8,
    "q5_1": 9,
    "q4_k": 14,
    "q5_k": 16,
    "q6_k": 18,
}
OF_TABLES = {  # the embedding and the head, where few bits would lose most
    "q4_0": "Q8_0",
    "q4_1": "Q8_0",
    "q5_0": "Q8_0",
    "q5_1": "Q8_0",
    "q4_k": "Q6_K",
    "q5_k": "Q6_K",
}
OF_OTHER_ROWS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # no multiples of 256; then F16


class Written(NamedTuple):
    """How many numbers a file holds as which kind, and how many matrices as another than wanted."""

    numbers: dict[str, int]
    replaced: dict[tuple[str, str], int]  # (wanted, used)


def write_gguf(
    path: str | os.PathLike[str],
    model: Any,
    tokenizer: Any,
    dtype: str,
    progress: Callable[[int], object] = lambda count: None,
) -> Written:
    """Write the whole file, or nothing; `dtype` is one of FILE_TYPES.

    Matrices are written as `dtype`, but the embedding and the head finer beside small ones
    (OF_TABLES), and matrices whose rows are no whole blocks as OF_OTHER_ROWS says, as llama.cpp
    does, or as F16; vectors and positions as f32. `tokenizer` may be None, or the metadata
    `tokenizer.*` of another file; `progress` is as for gguf_writing.write. ValueError names what
    GGUF or llama.cpp cannot hold.
    """
    if dtype not in FILE_TYPES:
        raise ValueError(f"gguf: dtype {dtype!r}, one of {', '.join(FILE_TYPES)} is needed")
    content = model.config.to_hf()
    metadata, factors = to_metadata(content)
    arch = metadata["general.architecture"]
    metadata |= {"general.file_type": FILE_TYPES[dtype], "general.quantization_version": 2}
    metadata |= vocabulary(tokenizer, model.config.vocab_size)
    arrays = FAMILIES[content["model_type"]].to_files(model.state_dict(), model.config)
    tensors: dict[str, tuple[Any, str]] = {}
    numbers: Counter[str] = Counter()
    replaced: Counter[tuple[str, str]] = Counter()
    for hf_name, array in arrays.items():
        name = NAMES[arch].gguf_name(hf_name)
        changed = to_gguf(name, to_numpy(array), arch, content)
        wanted = _kind(name, array.ndim, dtype)
        kind = _fitting(wanted, changed.shape[-1])
        replaced[wanted, kind] += wanted != kind
        numbers[kind] += changed.size
        tensors[name] = changed, kind
    if factors is not None:
        tensors[ROTARY_FACTORS] = (factors, "F32")
    gguf_writing.write(path, metadata, tensors, progress)
    return Written(dict(numbers.most_common()), dict(+replaced))


def _kind(name: str, rank: int, dtype: str) -> str:
    if rank == 1 or name == POSITIONS:
        return "F32"
    kind = dtype.upper()
    return OF_TABLES.get(dtype, kind) if name in (EMBEDDING, HEAD) else kind


def _fitting(kind: str, row: int) -> str:
    """`kind`, or what stands in for it where rows of `row` numbers are no whole blocks."""
    while row % KINDS[kind].elements:
        kind = OF_OTHER_ROWS.get(kind, "F16")
    return kind


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
        raise ValueError(
            f"gguf: {counted(len(tokens), 'token')} for {vocab_size:,} embeddings, at most as many"
        )
    tokens += [f"[PAD{id}]" for id in range(len(tokens), vocab_size)]
    metadata["tokenizer.ggml.token_type"] = numpy.append(
        types, numpy.full(missing, UNUSED, types.dtype)
    )
    if "tokenizer.ggml.scores" in metadata:
        scores = metadata["tokenizer.ggml.scores"]
        metadata["tokenizer.ggml.scores"] = numpy.append(scores, numpy.zeros(missing, scores.dtype))
    return metadata

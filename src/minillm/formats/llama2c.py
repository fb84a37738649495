"""Models of llama2.c (Karpathy 2023): one float32 file without names, and its vocabulary file."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy

from minillm.nn.rotary import half_split
from minillm.quantities import counted

HEADER = struct.Struct("<7i")
PIECE = struct.Struct("<fi")
NAMES = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, numpy.ndarray]]:
    """The content of a config.json, and the arrays, with Hugging Face's names and layout.

    Arrays are memory-mapped, but for queries and keys, whose rotary pairs lie interleaved in the
    file. A vocabulary size above 0 means a tied head, below 0 one of its own. ValueError for a file
    of another size than its header says.
    """
    sizes, tied = _header(Path(path))
    width, hidden, layers, heads, kv_heads, vocab, positions = sizes
    parts = _parts(width, hidden, layers, kv_heads * (width // heads), vocab)
    parts += [("angles", (positions * (width // heads),))]  # llama2.c computes them itself
    parts += [] if tied else [("lm_head", (vocab, width))]
    size = os.stat(path).st_size
    needed = HEADER.size + 4 * sum(math.prod(shape) for _, shape in parts)
    if size != needed:
        raise ValueError(
            f"{path}: {counted(size, 'byte')}, {needed:,} are needed for {dict(zip(NAMES, sizes))}"
        )
    numbers = numpy.memmap(path, "<f4", "r", HEADER.size)
    content = {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return content, _named(numbers, parts, layers, {"q_proj": heads, "k_proj": kv_heads})


def _header(path: Path) -> tuple[list[int], bool]:
    """The sizes in the order of NAMES, and whether the head is tied."""
    with open(path, "rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise ValueError(
            f"{path}: {counted(len(header), 'byte')}, a header of {HEADER.size} is needed"
        )
    *sizes, vocab, positions = HEADER.unpack(header)
    sizes += [abs(vocab), positions]
    width, _, _, heads, kv_heads, *_ = sizes
    if min(sizes) < 1 or width % heads or heads % kv_heads:
        raise ValueError(
            f"{path}: {dict(zip(NAMES, sizes))}, whole numbers from 1 are needed, dim a multiple "
            "of n_heads and n_heads of n_kv_heads"
        )
    return sizes, vocab > 0


def _parts(
    width: int, hidden: int, layers: int, keys: int, vocab: int
) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order of the file; the first axis of most is the layer."""
    return [
        ("model.embed_tokens", (vocab, width)),
        ("input_layernorm", (layers, width)),
        ("self_attn.q_proj", (layers, width, width)),
        ("self_attn.k_proj", (layers, keys, width)),
        ("self_attn.v_proj", (layers, keys, width)),
        ("self_attn.o_proj", (layers, width, width)),
        ("post_attention_layernorm", (layers, width)),
        ("mlp.gate_proj", (layers, hidden, width)),
        ("mlp.down_proj", (layers, width, hidden)),
        ("mlp.up_proj", (layers, hidden, width)),
        ("model.norm", (width,)),
    ]


def _named(
    numbers: numpy.ndarray,
    parts: list[tuple[str, tuple[int, ...]]],
    layers: int,
    turning: dict[str, int],
) -> dict[str, numpy.ndarray]:
    arrays, start = {}, 0
    for name, shape in parts:
        part = numpy.asarray(numbers[start : start + math.prod(shape)]).reshape(shape)
        start += math.prod(shape)
        if name.startswith(("model.", "lm_head")):
            arrays[f"{name}.weight"] = part
        elif name != "angles":
            heads = turning.get(name.removeprefix("self_attn."))
            for layer in range(layers):
                own = part[layer] if heads is None else half_split(part[layer], heads)
                arrays[f"model.layers.{layer}.{name}.weight"] = own
    return arrays


def read_vocabulary(path: str | os.PathLike[str]) -> tuple[list[bytes], list[float]]:
    """Pieces by id, as llama2.c prints them ("<0x0A>" for a byte), and their scores.

    The file holds SentencePiece's vocabulary: of the pairs of neighbours that are a piece, the one
    with the highest score is merged first. ValueError for a file that ends within a piece.
    """
    data = Path(path).read_bytes()
    pieces: list[bytes] = []
    scores: list[float] = []
    place = 4  # after the length of the longest piece
    while place < len(data):
        head = data[place : place + PIECE.size]
        score, length = PIECE.unpack(head) if len(head) == PIECE.size else (0.0, -1)
        place += PIECE.size
        if length < 0 or place + length > len(data):
            raise ValueError(f"{path}: damaged, piece {len(pieces)} does not fit in the file")
        pieces.append(data[place : place + length])
        scores.append(score)
        place += length
    if not pieces:
        raise ValueError(
            f"{path}: {counted(len(data), 'byte')}, a vocabulary of at least 1 piece is needed"
        )
    return pieces, scores

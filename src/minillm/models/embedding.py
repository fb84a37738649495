"""Texts as vectors: an encoder's hidden states pooled into one (Reimers and Gurevych 2019).

embedder = embedding.load("all-MiniLM-L6-v2")
vectors = embedder.encode(["The weather is lovely today.", "It's so sunny outside!"])
cosines = vectors @ vectors.T
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from minillm import ops
from minillm.models.folder import load_model, load_tokenizer, require_fit
from minillm.models.opening import find, open_config
from minillm.models.sentence_folder import MODES, settings
from minillm.quantities import counted
from minillm.tensor import Tensor, no_grad

SMALLEST_NORM = 1e-12


def pool(x: Tensor, mask: Any, modes: Sequence[str] = ("mean",), normalize: bool = True) -> Tensor:
    """Hidden states (B, T, C) of which `mask` (B, T) is text, as (B, C) for each mode, joined.

    "cls" is the first token's, "max" and "mean" go over the text, "mean_sqrt_len" is the sum by the
    square root of its length. `normalize` divides by the Euclidean norm.
    """
    text = mask.astype(bool)[..., None]
    weights = text.astype(x.dtype)
    count = weights.sum(axis=1).clip(1)
    parts = []
    for mode in modes:
        if mode == "cls":
            parts.append(x[:, 0])
        elif mode == "max":
            parts.append(x.masked_fill(~text, -math.inf).max(axis=1))
        else:
            parts.append((x * weights).sum(axis=1) / (count if mode == "mean" else count**0.5))
    out = parts[0] if len(parts) == 1 else ops.concatenate(*parts, axis=1)
    if not normalize:
        return out
    norm = (out * out).sum(axis=1, keepdims=True).sqrt()
    return out / ops.clip(norm, low=SMALLEST_NORM, high=math.inf)


class Embedder:
    """An encoder, its tokenizer, and how its hidden states become one vector a text.

    A text longer than `max_length` tokens is cut, with a warning. `prompt` goes before each text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        modes: Sequence[str] = ("mean",),
        normalize: bool = True,
        max_length: int | None = None,
        lowercase: bool = False,
        prompt: str = "",
    ) -> None:
        context = model.config.context
        self.model, self.tokenizer = model, tokenizer
        self.modes, self.normalize = tuple(modes), normalize
        self.max_length = context if max_length is None else min(max_length, context)
        self.lowercase, self.prompt = lowercase, prompt
        for mode in self.modes:
            if mode not in MODES:
                raise ValueError(f"embed: pooling {mode!r}, one of {', '.join(MODES)} is needed")
        if not self.modes:
            raise ValueError(f"embed: no pooling given, one of {', '.join(MODES)} is needed")

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return self.model.config.hidden_size * len(self.modes)

    def tokenize(self, text: str) -> tuple[list[int], int]:
        """Ids with the control tokens around them, at most max_length, and how many were cut."""
        text = self.prompt + text.strip()
        text = text.lower() if self.lowercase else text
        ids = self.tokenizer.encode(text)
        whole = self.tokenizer.around(ids)
        extra = len(whole) - self.max_length
        if extra <= 0:
            return whole, 0
        if extra >= len(ids):
            raise ValueError(
                f"embed: {counted(len(whole), 'token')} cannot be cut to {self.max_length}, "
                "room for the control tokens and text is needed"
            )
        return self.tokenizer.around(ids[:-extra]), extra

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> numpy.ndarray:
        """Vectors (N, dimensions), float32. Texts of like length are computed together."""
        if isinstance(texts, str):
            raise TypeError("embed: one text given, a list of texts is needed")
        rows, cut = [], 0
        for text in texts:
            ids, extra = self.tokenize(text)
            rows.append(ids)
            cut += extra > 0
            if not ids:
                raise ValueError(f"embed: {text!r} gives no token, at least 1 is needed")
        if cut:
            warnings.warn(
                f"embed: {cut} of {len(rows)} texts have more than "
                f"{counted(self.max_length, 'token')} and "
                "are cut to these",
                stacklevel=2,
            )
        return self.encode_rows(rows, batch_size)

    def encode_rows(self, rows: Sequence[Sequence[int]], batch_size: int = 32) -> numpy.ndarray:
        """The same of ids, as `tokenize` gives them."""
        out = numpy.empty((len(rows), self.dimensions), numpy.float32)
        for places in alike([len(row) for row in rows], batch_size):
            with no_grad():
                out[places] = self.vectors(*self.batch([rows[place] for place in places])).numpy()
        return out

    def batch(self, rows: Sequence[Sequence[int]]) -> tuple[numpy.ndarray, numpy.ndarray]:
        """ids and mask (B, T), padded on the right."""
        return padded(rows, self.model.config.pad_token_id or 0)

    def vectors(self, ids: Any, mask: Any) -> Tensor:
        """(B, dimensions) on the tape, for training."""
        return pool(self.model.features(ids, mask), mask, self.modes, self.normalize)


def padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Rows as one array (B, T), filled on the right, and a mask of what is theirs."""
    ids = numpy.full((len(rows), max(map(len, rows))), fill, numpy.int64)
    mask = numpy.zeros(ids.shape, bool)
    for place, row in enumerate(rows):
        ids[place, : len(row)], mask[place, : len(row)] = row, True
    return ids, mask


def alike(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Places in batches of at most `most`, in none of which one is over twice another's length."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        last = batches[-1] if batches else []
        if last and len(last) < most and lengths[place] <= 2 * lengths[last[0]]:
            last.append(place)
        else:
            batches.append([place])
    return batches


def load(path: str | os.PathLike[str]) -> Embedder:
    """The embedder of a folder or pulled name, as sentence-transformers would use it.

    modules.json, 1_Pooling/config.json, sentence_bert_config.json and
    config_sentence_transformers.json are heeded; where there are none, the mean is taken and
    normalised. Heads of the model are left aside. ValueError for what is not implemented.
    """
    place = find(path)
    return around(load_body(place), place)


def load_body(place: Path, pooler: bool = False) -> Any:
    """The encoder of a folder without a head, and without a pooler unless it is asked for.

    ValueError for another kind of model.
    """
    kind = open_config(place)[1].kind
    if kind != "encoder":
        article = "a" if kind == "decoder" else "an"
        raise ValueError(f"embed: {place} is {article} {kind}, an encoder is needed, such as BERT")
    return load_model(place, changes={"architectures": None, "add_pooling_layer": pooler})


def around(model: Any, place: Path) -> Embedder:
    """The embedder of a model with the tokenizer and the settings of a folder."""
    tokenizer = load_tokenizer(place)
    require_fit(tokenizer, model.config.vocab_size, place)
    return Embedder(model, tokenizer, **settings(place))

"""Encoding by Hugging Face's `tokenizers`, an extra; the ids are those of Python's own way."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Collection
from functools import cache
from typing import Any

import numpy as np

from . import models
from .reading import Document

BACKENDS = ("auto", "python", "tokenizers")
VARIABLE = "MINILLM_TOKENIZERS"

# Control tokens are called this and their id while the library encodes: no text makes one then.
_HIDDEN = "\ufdd0"
_BATCH = 16


def choose_backend(backend: str | None) -> str:
    """One of "auto", "python" and "tokenizers": the argument, else MINILLM_TOKENIZERS, else "auto".

    Raises ValueError for another word and RuntimeError where the library is asked for but missing.
    """
    chosen = backend or os.environ.get(VARIABLE) or "auto"
    if chosen not in BACKENDS:
        raise ValueError(f"tokenizer backend {chosen!r}, one of {', '.join(BACKENDS)} is needed")
    if chosen == "tokenizers" and not is_installed():
        raise RuntimeError(
            "tokenizer backend 'tokenizers': the library is not installed, it is needed; "
            "install the extra hf, in the checkout: pip install '.[hf]'"
        )
    return chosen


@cache
def is_installed() -> bool:
    """Whether the `tokenizers` library can be imported."""
    return importlib.util.find_spec("tokenizers") is not None


class Library:
    """One tokenizer.json in the hands of the library; made when it is first needed."""

    def __init__(self, document: Document, dtype: np.dtype[Any]) -> None:
        """ValueError, when it is made, for what the library does not open."""
        self._document, self._dtype = document, dtype
        self._made: dict[bool, tuple[Any, np.ndarray]] = {}
        self._encoder(False)

    def confused_by(self, text: str) -> bool:
        """Whether the text has the character that hides control tokens."""
        return _HIDDEN in text

    def encode(self, stretches: list[str], specials: bool) -> bytes:
        """The packed ids of the stretches of a text; with `specials` control tokens are found."""
        encoder, moved = self._encoder(specials)
        packed = []
        for start in range(0, len(stretches), _BATCH):
            batch = stretches[start : start + _BATCH]
            for made in encoder.encode_batch_fast(batch, add_special_tokens=False):
                packed.append(moved[made.ids].astype(self._dtype).tobytes())
        return b"".join(packed)

    def _encoder(self, specials: bool) -> tuple[Any, np.ndarray]:
        """The library's tokenizer, and our id for each of its ids."""
        if specials not in self._made:
            from tokenizers import Tokenizer

            document = _hiding(self._document, specials)
            try:
                encoder = Tokenizer.from_str(json.dumps(document))
            except Exception as error:  # the library raises nothing narrower
                raise ValueError(f"the tokenizers library refuses it: {error}") from None
            moved = np.arange(encoder.get_vocab_size() + len(document["added_tokens"]))
            for token in document["added_tokens"]:
                moved[encoder.token_to_id(token["content"])] = token["id"]
            self._made[specials] = encoder, moved
        return self._made[specials]


def _hiding(document: Document, specials: bool) -> Document:
    """The document for encoding: no control token in the model, only among what is to be found."""
    added = document["added_tokens"]
    names = {token["content"] for token in added if token["special"]}
    return {
        **document,
        "added_tokens": [token for token in added if specials or not token["special"]],
        "post_processor": None,
        "decoder": None,
        "model": _hidden_in(document["model"], names),
    }


def _hidden_in(model: Document, names: Collection[str]) -> Document:
    hidden = dict(model)
    if models.kind_of(model) == "Unigram":
        hidden["vocab"] = [
            [f"{_HIDDEN}{id}", entry[1]] if entry[0] in names else entry
            for id, entry in enumerate(model["vocab"])
        ]
        return hidden
    vocab = model["vocab"]
    hidden["vocab"] = {
        f"{_HIDDEN}{id}" if token in names else token: id for token, id in vocab.items()
    }
    if model.get("unk_token") in names:
        hidden["unk_token"] = f"{_HIDDEN}{vocab[model['unk_token']]}"
    if "merges" in model:
        hidden["merges"] = models.without(models.merges_of(model), names)
    return hidden

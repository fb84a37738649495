"""Translations of texts by a model: many at once, each as it would be alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from minillm.generation.engine import Engine
from minillm.generation.options import Options
from minillm.models.embedding import alike
from minillm.models.folder import load
from minillm.tokenizers import Tokenizer

TOGETHER = 16  # texts
LEAST, TIMES = 24, 2  # tokens that may be written: so many, and so many for each of the source


class Translated(NamedTuple):
    """What was written; `whole` unless it was stopped before it ended by itself."""

    text: str
    whole: bool


class Translator:
    """An encoder-decoder and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(
        self,
        texts: Sequence[str],
        beams: int = 1,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Translated]:
        """A translation of each text, the most probable one that so many beams find.

        Texts of like length are written together; `progress` is told how many more are done.
        """
        rows = [self.tokenizer.encode(text, add_special_tokens=True) for text in texts]
        found: list[Translated] = [Translated("", True)] * len(texts)
        engine = Engine(self.model, self.tokenizer, max_batch=TOGETHER)
        for places in alike([len(row) for row in rows], TOGETHER):
            some = [rows[place] for place in places]
            options = [
                Options(temperature=0.0, beams=beams, max_tokens=LEAST + TIMES * len(row))
                for row in some
            ]
            written = engine.complete(some, options)
            for place, one in zip(places, written, strict=True):
                found[place] = Translated(one.text.strip(), one.finish_reason == "stop")
            progress(len(places))
        return found


def open_translator(path: str | os.PathLike[str]) -> Translator:
    """The model of a folder; ValueError unless it is an encoder-decoder."""
    model, tokenizer = load(path)
    kind = model.config.kind
    if kind != "encoder-decoder":
        article = "a" if kind == "decoder" else "an"
        raise ValueError(
            f"translate: {path} is {article} {kind}, an encoder-decoder is needed; make one with: "
            "minillm train PAIRS.tsv --objective translate"
        )
    return Translator(model, tokenizer)

"""Opening a tokenizer: which file of a folder it is, and which class encodes with it."""

from __future__ import annotations

import os
from pathlib import Path

from . import models
from .added_tokens import read_added_tokens
from .description import NOTHING, Description, description, read_json
from .library import choose_backend, is_installed
from .pipeline import PARTS, PipelineTokenizer, all_tokens
from .reading import Document, Unsupported, an_object, require, require_known
from .simple_documents import simple
from .source_target import is_saved_in, load_source_target
from .tokenizer import TOKENIZER_FILE, Tokenizer
from .vocabulary_files import vocabulary_file


def load(path: str | os.PathLike[str], backend: str | None = None) -> Tokenizer:
    """Open the tokenizer in a folder, or one file of those below, saved by minillm or by others.

    tokenizer.json                 BPE, WordPiece or Unigram
    vocab.json and merges.txt      byte-level BPE of GPT-2 or RoBERTa
    vocab.txt                      BERT's WordPiece
    tokenizer_config.json, special_tokens_map.json and chat_template.jinja beside it are heeded.
    `backend` says who encodes: "python", "tokenizers" (Hugging Face's library, extra `hf`) or
    "auto", which takes the library for what it does faster and for what Python alone does not;
    MINILLM_TOKENIZERS says it where the argument does not. The ids are the same.
    Raises FileNotFoundError, and ValueError naming the file and the part of it that is damaged or
    not supported.
    """
    path = Path(path)
    if is_saved_in(path):
        return load_source_target(path)
    older = vocabulary_file(path)
    if older is not None:
        path = older.path
    elif path.is_dir():
        path = path / TOKENIZER_FILE
        if not path.exists():
            raise FileNotFoundError(
                f"load: {path.parent} has no {TOKENIZER_FILE}, a tokenizer is needed"
            )
    try:
        if older is not None:
            return from_document(*older.read(), backend)
        document = read_json(path)
        about = description(path.parent) if path.name == TOKENIZER_FILE else NOTHING
        return from_document(document, about, backend)
    except (ValueError, TypeError) as error:
        raise ValueError(f"load: {path}: {error}") from None


def from_document(
    document: Document, about: Description = NOTHING, backend: str | None = None
) -> Tokenizer:
    """The tokenizer that the content of a tokenizer.json describes; ValueError as in `load`."""
    chosen = choose_backend(backend)
    require_known(document, PARTS)
    require(document, "version", (None, "1.0"))
    added = read_added_tokens(document.get("added_tokens"))
    vocab = models.vocabulary(an_object(document.get("model"), "model"))
    tokens, added = all_tokens(vocab, added, about.specials)
    eos = about.roles.get("eos")
    tokenizer = simple(document, tokens, added, eos)
    if tokenizer is None:
        tokenizer = _pipeline(document, about, chosen)
    return about.give_to(tokenizer)


def _pipeline(document: Document, about: Description, backend: str) -> Tokenizer:
    eos = about.roles.get("eos")
    if backend == "auto":
        kind = models.kind_of(document["model"])
        backend = "tokenizers" if is_installed() and kind != "BPE" else "python"
        try:
            return PipelineTokenizer(document, eos, about.specials, backend)
        except Unsupported:
            if not is_installed():
                raise
            backend = "tokenizers"
    return PipelineTokenizer(document, eos, about.specials, backend)

"""Opening a tokenizer: which file of a folder it is, and which class encodes with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..formats import gguf
from . import models
from .added_tokens import AddedToken, read_added_tokens
from .description import NOTHING, Description, description, read_json
from .library import choose_backend, is_installed
from .pipeline import PARTS, PipelineTokenizer, all_tokens
from .reading import Document, Unsupported, an_object, require, require_known
from .simple_documents import simple
from .tokenizer import TOKENIZER_FILE, Tokenizer
from .vocabulary_files import MERGES, VOCAB_JSON, VOCAB_TXT, vocabulary_file

# The files a tokenizer may be in; in a folder the first of them is taken.
FILES = (
    TOKENIZER_FILE, VOCAB_JSON, "tokenizer.model", "spiece.model", "spm.model", VOCAB_TXT,
)  # fmt: skip


def load(path: str | os.PathLike[str], backend: str | None = None) -> Tokenizer:
    """Open the tokenizer in a folder, or one file of those below, saved by minillm or by others.

    tokenizer.json             BPE, WordPiece or Unigram
    vocab.json and merges.txt  byte-level BPE of GPT-2 or RoBERTa
    *.model                    SentencePiece, BPE or Unigram
    vocab.txt                  BERT's WordPiece
    *.gguf                     see `from_gguf`
    *.bin                      the vocabulary of a llama2.c model
    In a folder the first of the first four is taken; tokenizer_config.json,
    special_tokens_map.json, added_tokens.json and chat_template.jinja in it are heeded.
    `backend` says who encodes: "python", "tokenizers" (Hugging Face's library, extra `hf`) or
    "auto", which takes the library for what it does faster and for what Python alone does not;
    MINILLM_TOKENIZERS says it where the argument does not. The ids are the same.
    Raises FileNotFoundError, and ValueError naming the file and the part of it that is damaged or
    not supported.
    """
    from .source_target import is_saved_in, load_source_target

    path = Path(path)
    if is_saved_in(path):
        return load_source_target(path)
    if path.is_dir():
        path = _file_of(path)
    try:
        return _open(path, backend)
    except (ValueError, TypeError) as error:
        raise ValueError(f"load: {path}: {error}") from None


def _file_of(folder: Path) -> Path:
    for name in FILES:
        alone = name == VOCAB_JSON and not (folder / MERGES).exists()
        if (folder / name).exists() and not alone:
            return folder / name
    raise FileNotFoundError(f"load: {folder} has no {TOKENIZER_FILE}, a tokenizer is needed")


def _open(path: Path, backend: str | None) -> Tokenizer:
    if path.suffix == ".gguf":
        from .gguf_documents import from_gguf

        return from_gguf(gguf.read(path)[0], backend)
    if path.suffix == ".bin":
        from .sentencepiece_files import from_llama2c

        return from_llama2c(path)
    older = vocabulary_file(path)
    if older is not None:
        return from_document(*older.read(), backend)
    about = description(path.parent) if path.name in FILES else NOTHING
    if path.suffix == ".model":
        from .sentencepiece_files import from_model_file

        return about.give_to(from_model_file(path, about))
    return from_document(read_json(path), about, backend)


def from_document(
    document: Document, about: Description = NOTHING, backend: str | None = None
) -> Tokenizer:
    """The tokenizer that the content of a tokenizer.json describes; ValueError as in `load`."""
    chosen = choose_backend(backend)
    require_known(document, PARTS)
    require(document, "version", (None, "1.0"))
    document = _with_added(document, about)
    added = read_added_tokens(document.get("added_tokens"))
    vocab = models.vocabulary(an_object(document.get("model"), "model"))
    ids, added = all_tokens(vocab, added, about.specials)
    eos = about.roles.get("eos")
    tokenizer = simple(document, ids, added, eos)
    if tokenizer is None:
        tokenizer = _pipeline(document, about, chosen, (ids, added))
    return about.give_to(tokenizer)


def _with_added(document: Document, about: Description) -> Document:
    """The document with those added tokens that only stand in the files beside it."""
    there = {entry.get("content") for entry in document.get("added_tokens") or []
             if isinstance(entry, dict)}  # fmt: skip
    more = [token.entry() for token in about.added if token.content not in there]
    if not more:
        return document
    return {**document, "added_tokens": [*(document.get("added_tokens") or []), *more]}


def _pipeline(
    document: Document,
    about: Description,
    backend: str,
    known: tuple[Mapping[str, int], list[AddedToken]],
) -> Tokenizer:
    eos = about.roles.get("eos")
    if backend == "auto":
        kind = models.kind_of(document["model"])
        backend = "tokenizers" if is_installed() and kind != "BPE" else "python"
        try:
            return PipelineTokenizer(document, eos, about.specials, backend, known)
        except Unsupported:
            if not is_installed():
                raise
            backend = "tokenizers"
    return PipelineTokenizer(document, eos, about.specials, backend, known)

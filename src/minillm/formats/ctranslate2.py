"""CTranslate2 folders of a Transformer: model.bin, the vocabularies, from version 6 config.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from minillm.formats import hf
from minillm.formats.ctranslate2_file import read
from minillm.formats.ctranslate2_names import settings_of, state_of

MODEL_FILE = "model.bin"
CONFIG_FILE = "config.json"
REVISIONS = range(2, 8)


class Vocabularies(NamedTuple):
    """Tokens by id, and what CTranslate2 adds around a source text."""

    source: list[str]
    target: list[str]
    unknown: str = "<unk>"
    eos: str = "</s>"
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a CTranslate2 model (and not one in Hugging Face layout)."""
    folder = Path(path)
    if not (folder / MODEL_FILE).is_file():
        return False
    config = folder / CONFIG_FILE
    return not config.is_file() or "model_type" not in hf.read_json(config)


def open(
    folder: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, Any], Vocabularies]:
    """config.json content and arrays for the family "transformer", and the vocabularies.

    `minillm.load(folder)` gives the model, and a tokenizer where all tokens are characters:

        model, tokenizer = minillm.load("aren-transliteration")
        ids = numpy.array([tokenizer.encode("آرثر", add_special_tokens=True)])
        tokenizer.decode(generate_ids(model, ids)[0])  # 'arther'; see generation.encoder_decoder

    FileNotFoundError for a missing file; ValueError in one line for a damaged one, for anything the
    architecture has that the family has not, by name, and for vocabularies of other sizes.
    """
    folder = Path(folder)
    path = folder / MODEL_FILE
    if not path.is_file():
        raise FileNotFoundError(f"ctranslate2: no {MODEL_FILE} in {folder}, a model is needed")
    contents = read(path)
    if contents.revision not in REVISIONS:
        raise ValueError(
            f"{path}: revision {contents.revision} of {contents.architecture}, "
            f"{REVISIONS[0]} to {REVISIONS[-1]} is needed"
        )
    own = hf.read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    state, rest = state_of(contents.arrays, path)
    config, tokens = settings_of(contents.architecture, state, rest, own, path)
    vocabularies = _vocabularies(folder, tokens)
    for side, size in (("source", config["vocab_size"]), ("target", config["target_vocab_size"])):
        if len(getattr(vocabularies, side)) != size:
            raise ValueError(
                f"{folder}: {len(getattr(vocabularies, side))} {side} tokens and {size} "
                "embeddings, they do not belong together"
            )
    for key, token in (("decoder_start_token_id", tokens["decoder_start_token"]),
                       ("eos_token_id", tokens["eos_token"])):  # fmt: skip
        if token not in vocabularies.target:
            raise ValueError(f"{folder}: {token!r} is none of the target tokens, it is needed")
        config[key] = vocabularies.target.index(token)
    return config, state, vocabularies


def _vocabularies(folder: Path, tokens: dict[str, Any]) -> Vocabularies:
    """The vocabulary files of a folder: one for both sides, or one each."""
    shared = _vocabulary(folder, "shared", tokens["unk_token"])
    sides = [
        shared or _vocabulary(folder, side, tokens["unk_token"]) for side in ("source", "target")
    ]
    for side, vocabulary in zip(("source", "target"), sides):
        if vocabulary is None:
            raise FileNotFoundError(
                f"ctranslate2: no {side}_vocabulary.txt or .json in {folder}, the tokens are needed"
            )
    return Vocabularies(
        list(sides[0] or ()),
        list(sides[1] or ()),
        tokens["unk_token"],
        tokens["eos_token"],
        (tokens["bos_token"],) if tokens["add_source_bos"] else (),
        (tokens["eos_token"],) if tokens["add_source_eos"] else (),
    )


def _vocabulary(folder: Path, side: str, unknown: str) -> list[str] | None:
    """Tokens by id, the unknown one last where the file leaves it out; None without a file."""
    path = folder / f"{side}_vocabulary.json"
    if path.is_file():
        tokens = _listed(path)
    else:
        path = path.with_suffix(".txt")
        if not path.is_file():
            return None
        lines = _text(path).removesuffix("\n").split("\n")
        returns = all(line.endswith("\r") for line in lines)  # else they are part of tokens
        tokens = [line[:-1] for line in lines] if returns else lines
    return tokens if unknown in tokens else [*tokens, unknown]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from None


def _listed(path: Path) -> list[str]:
    try:
        tokens = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"{path}: a list of strings is needed")
    return tokens

"""Whole models in and out of a folder: configuration, weights, tokenizer."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy

from minillm import tokenizers
from minillm.formats import hf, safetensors
from minillm.models import FAMILIES, Family
from minillm.tensor import no_grad
from minillm.tokenizers import Tokenizer


def logits_of(model: Any) -> Any:
    """ids (B, T) to logits as an array, in evaluation mode, off the tape."""

    def logits(ids: numpy.ndarray) -> numpy.ndarray:
        training = model.training
        model.eval()
        try:
            with no_grad():
                return model(ids).numpy()
        finally:
            model.train(training)

    return logits


def save_weights(folder: str | os.PathLike[str], model: Any) -> None:
    """Write model.safetensors, with reference logits in its metadata."""
    family = FAMILIES[model.config.to_hf()["model_type"]]
    hf.save_weights(
        folder,
        family.to_files(model.state_dict(), model.config),
        logits_of(model),
        model.config.vocab_size,
        model.config.context,
    )


def save_model(
    folder: str | os.PathLike[str], model: Any, tokenizer: Tokenizer | None = None
) -> None:
    """Write a whole model in Hugging Face layout; without a tokenizer if none is given."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        hf.write_json(Path(folder) / "config.json", model.config.to_hf())
    else:
        save_description(folder, model, tokenizer)
    save_weights(folder, model)


def save_description(folder: str | os.PathLike[str], model: Any, tokenizer: Tokenizer) -> None:
    """Write everything but the weights: config.json, generation_config.json, tokenizer.json."""
    folder = Path(folder)
    hf.write_json(folder / "config.json", model.config.to_hf())
    generation = {
        name: tokenizer.eos_id
        for name in ("bos_token_id", "eos_token_id")
        if tokenizer.eos_id is not None
    }
    hf.write_json(folder / "generation_config.json", generation | {"do_sample": True})
    tokenizer.save(folder)


def load_model(
    folder: str | os.PathLike[str],
    *,
    untrained: bool = False,
    seed: int = 0,
    changes: dict[str, Any] | None = None,
) -> Any:
    """The model of a folder, in evaluation mode; with its weights drawn anew if `untrained`.

    `changes` go before what config.json says, such as another of the family's `architectures`.
    Raises FileNotFoundError or ValueError in one line for a missing, damaged or unknown model, and
    warns if the logits stored with the weights cannot be reproduced.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        what = "is no model folder (no config.json)" if folder.is_dir() else "is not a folder"
        raise FileNotFoundError(f"load: {folder} {what}, a folder in Hugging Face layout is needed")
    content = hf.read_json(folder / "config.json") | (changes or {})
    kind = content.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(
            f"load: model_type {kind!r} in {folder / 'config.json'} is not known, "
            f"one of {', '.join(FAMILIES)} is needed"
        )
    family = FAMILIES[kind]
    model = family.model(family.config.from_hf(content), seed=seed)
    if not untrained:
        _load_weights(folder / "model.safetensors", family, model)
    return model.eval()


def _load_weights(path: Path, family: Family, model: Any) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"load: no {path.name} in {path.parent}, the weights are needed")
    arrays, metadata = safetensors.read(path)
    if safetensors.DIGEST in metadata:  # written by minillm
        arrays, metadata = safetensors.verify(path)
    try:
        model.load_state_dict(family.from_files(arrays, model.config))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    difference = hf.reference_difference(
        metadata, logits_of(model), model.config.vocab_size, model.config.context
    )
    if difference is not None and difference > hf.TOLERANCE:
        warnings.warn(
            f"{path}: logits differ by up to {difference:.3g} from those stored with the weights",
            stacklevel=3,
        )


def load(
    folder: str | os.PathLike[str], *, untrained: bool = False, seed: int = 0
) -> tuple[Any, Tokenizer]:
    """Model and tokenizer of a folder. Errors as in `load_model` and `tokenizers.load`.

    ValueError if the tokenizer has more ids than the model has embeddings.
    """
    model = load_model(folder, untrained=untrained, seed=seed)
    tokenizer = tokenizers.load(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"load: the tokenizer of {folder} has {tokenizer.vocab_size} ids, "
            f"the model only {model.config.vocab_size}; they do not belong together"
        )
    return model, tokenizer

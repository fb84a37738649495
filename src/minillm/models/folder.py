"""Whole models in and out of files: configuration, weights, tokenizer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy

from minillm import devices, kernels, nn, tokenizers
from minillm.arrays import beside, to_numpy
from minillm.formats import gguf, hf, safetensors, shards
from minillm.models import FAMILIES
from minillm.models.opening import (
    VOCABULARIES,
    Model,
    find,
    is_ctranslate2,
    open_config,
    open_model,
    require_memory,
)
from minillm.quantities import counted
from minillm.tensor import no_grad
from minillm.tokenizers import Tokenizer

TORCH_DTYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16"}


class LogitsDiffer(UserWarning):
    """A model does not give the logits that are stored with its weights."""


def logits_of(model: Any) -> Callable[[numpy.ndarray], numpy.ndarray]:
    """ids (B, T) to what the model gives, as an array, in evaluation mode, off the tape.

    An encoder-decoder is given the ids on both sides, wrapped at the size of its target vocabulary.
    """

    def logits(ids: numpy.ndarray) -> numpy.ndarray:
        training = model.training
        model.eval()
        inputs = [ids]
        if model.config.kind == "encoder-decoder":
            inputs.append(ids % model.config.target_size)
        try:
            with no_grad():
                return model(*inputs).numpy()
        finally:
            model.train(training)

    return logits


def save_weights(
    folder: str | os.PathLike[str],
    model: Any,
    *,
    dtype: str | None = None,
    shard_bytes: int = shards.LARGEST_SHARD,
) -> None:
    """Write model.safetensors, or shards, with reference logits in the metadata.

    `dtype` is "f64", "f32", "f16", "bf16" or None, the model's own. The reference is what the
    rounded weights give.
    """
    state = {name: to_numpy(array) for name, array in model.state_dict().items()}
    arrays = FAMILIES[model.config.to_hf()["model_type"]].to_files(state, model.config)
    prompt = hf.reference_prompt(model.config.vocab_size, model.config.context)
    with _rounded(model, dtype):
        metadata = {"format": "pt"} | hf.reference_metadata(logits_of(model)(prompt))
    shards.write(Path(folder), arrays, metadata, dtype, shard_bytes)


@contextmanager
def _rounded(model: Any, dtype: str | None) -> Iterator[None]:
    """Inside the block the weights have the values that they have in a file of `dtype`."""
    exact = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        if dtype in ("f16", "bf16"):
            for parameter, array in exact:
                parameter.data = beside(safetensors.rounded(to_numpy(array), dtype), array)
        yield
    finally:
        for parameter, array in exact:
            parameter.data = array


def save_description(
    folder: str | os.PathLike[str],
    model: Any,
    tokenizer: Tokenizer | None = None,
    *,
    dtype: str | None = None,
) -> None:
    """Write everything but the weights: config.json, generation_config.json, tokenizer.json."""
    folder = Path(folder)
    config = model.config
    stored = {} if dtype is None else {"torch_dtype": TORCH_DTYPES[dtype]}
    hf.write_json(folder / "config.json", config.to_hf() | stored)
    if tokenizer is None:
        return
    if config.kind != "encoder":
        hf.write_json(folder / "generation_config.json", _generation(config, tokenizer))
    tokenizer.save(folder)


def _generation(config: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of generation_config.json: ids that begin and end a text, the model's first."""
    if config.kind == "encoder-decoder":
        names = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
        return {name: getattr(config, name) for name in names}
    content = config.to_hf()
    end = tokenizer.eos_id if config.eos_token_id is None else content["eos_token_id"]
    begin = tokenizer.role_ids.get("bos", tokenizer.eos_id)
    if getattr(config, "bos_token_id", None) is not None:
        begin = config.bos_token_id
    ids = {"bos_token_id": begin, "eos_token_id": end}
    return {name: id for name, id in ids.items() if id is not None} | {"do_sample": True}


def save_model(
    folder: str | os.PathLike[str],
    model: Any,
    tokenizer: Tokenizer | None = None,
    *,
    dtype: str | None = None,
    shard_bytes: int = shards.LARGEST_SHARD,
) -> None:
    """Write a whole model in Hugging Face layout; options as for `save_weights`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_description(folder, model, tokenizer, dtype=dtype)
    save_weights(folder, model, dtype=dtype, shard_bytes=shard_bytes)


def load_config(path: str | os.PathLike[str], *, pull: bool = False) -> Any:
    """The configuration of a model; errors as in `load_model`."""
    return open_config(find(path, pull=pull))[1]


def load_model(
    path: str | os.PathLike[str],
    *,
    untrained: bool = False,
    seed: int = 0,
    pull: bool = False,
    changes: dict[str, Any] | None = None,
    device: str | None = None,
) -> Any:
    """The model of a folder, a .gguf file or a pulled name, in evaluation mode, in float32.

    Matrices in blocks or 16 bits are multiplied as they lie in the file where the extension is, on
    a GPU the one for GPUs; everything else, and they themselves in training, is decoded when first
    used. With `untrained`
    weights are drawn anew; with `pull` a name that is not there is fetched from the hub; `changes`
    go before what config.json says, such as another of the family's `architectures`. It lies on
    `device`, else on the default one. Raises FileNotFoundError or ValueError in one line for a
    missing, damaged, unknown or too large model, and warns if the logits stored with the weights
    cannot be reproduced; with `changes`, which may change them, that is not asked.
    """
    device = kernels.get_default_device() if device is None else device
    devices.require(device)
    found = find(path, pull=pull)
    if untrained:
        family, config = open_config(found, changes)
        require_memory(config, found, device=device)
        return family.model(config, seed=seed).eval().to(device)
    opened = open_model(found, changes, verify=True)
    return _build(opened._replace(metadata={}) if changes else opened, device)


def _build(opened: Model, device: str) -> Any:
    source = opened.files[0] if len(opened.files) == 1 else opened.path
    require_memory(opened.config, source, opened.running_bytes(device), device)
    model = nn.skip_init(opened.family.model, opened.config).eval()
    try:
        model.load_state_dict(opened.arrays)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    model.to(device)
    difference = hf.reference_difference(
        opened.metadata, logits_of(model), model.config.vocab_size, model.config.context
    )
    if difference is not None and difference > hf.TOLERANCE:
        warnings.warn(
            f"{source}: logits differ by up to {difference:.3g} from those stored with the weights",
            LogitsDiffer,
            stacklevel=3,
        )
    return model


def load(
    path: str | os.PathLike[str],
    *,
    untrained: bool = False,
    seed: int = 0,
    pull: bool = False,
    device: str | None = None,
) -> tuple[Any, Tokenizer]:
    """Model and tokenizer; options and errors as in `load_model` and `tokenizers.load`.

    ValueError if the tokenizer has more ids than the model has embeddings.
    """
    device = kernels.get_default_device() if device is None else device
    devices.require(device)
    found = find(path, pull=pull)
    if untrained:
        model, metadata = load_model(found, untrained=True, seed=seed, device=device), None
    else:
        opened = open_model(found, verify=True)
        model, metadata = _build(opened, device), opened.metadata
    tokenizer = load_tokenizer(found, metadata)
    encodes_and_decodes = model.config.kind == "encoder-decoder"  # with two vocabularies, perhaps
    size = model.config.target_size if encodes_and_decodes else model.config.vocab_size
    require_fit(tokenizer, size, path)
    return model, tokenizer


def require_fit(tokenizer: Tokenizer, size: int, path: str | os.PathLike[str]) -> None:
    """ValueError if the tokenizer has more ids than the model's `size` embeddings."""
    if tokenizer.vocab_size > size:
        raise ValueError(
            f"load: the tokenizer of {path} has {counted(tokenizer.vocab_size, 'id')}, "
            f"the model only {size:,}; they do not belong together"
        )


def load_tokenizer(path: Path, metadata: dict[str, Any] | None = None) -> Tokenizer:
    """The tokenizer of what `find` gave; `metadata` of a GGUF file if it was read already."""
    if is_ctranslate2(path):
        vocabularies = (metadata or open_model(path).metadata)[VOCABULARIES]
        return tokenizers.SourceTargetTokenizer(**vocabularies._asdict())
    if not path.is_file():
        return tokenizers.load(path)
    if metadata is None:
        metadata = gguf.read(path)[0]
    return tokenizers.from_gguf(metadata)

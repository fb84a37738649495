"""Names of an encoder's weights in Hugging Face's files, family by family."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

from minillm.formats.deferred import Joined
from minillm.models.encoder_config import EncoderConfig
from minillm.models.family import Arrays, tie

OLD_ENDINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
WORDS = "embeddings.word_embeddings.weight"


class Names(NamedTuple):
    """How one family names its layers. Ours come first in the pairs."""

    prefix: str  # before the body where the model has a head, such as "bert."
    layer: str  # before the number of a layer
    joint: tuple[str, str, str]  # queries, keys and values, which we hold in one
    parts: dict[str, str]  # the rest of a layer
    pooler: dict[str, str]  # by task
    dense: str  # of the masked language model's head, and its norm, decoder and bias
    norm: str
    decoder: str
    bias: tuple[str, ...]  # of its own, and the one that a tied decoder reads instead
    classifier: dict[str, str]  # by task
    unused: tuple[str, ...] = ()  # beginnings of what architectures not known here have


def tensors(names: Names, config: EncoderConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each tensor of the model and where its rows lie in the files: our name, their names."""
    task = config.task
    prefix = "" if task == "features" else names.prefix
    for kind in ("word", "position") + ("token_type",) * (config.type_vocab_size > 0):
        name = f"embeddings.{kind}_embeddings.weight"
        yield name, (prefix + name,)
    layers: dict[str, tuple[str, ...]] = {}
    layers["embeddings.LayerNorm"] = (f"{prefix}embeddings.LayerNorm",)
    for place in range(config.n_layer):
        before = f"{prefix}{names.layer}{place}."
        layers[f"layers.{place}.joint"] = tuple(before + part for part in names.joint)
        for ours, theirs in names.parts.items():
            layers[f"layers.{place}.{ours}"] = (before + theirs,)
    if config.pooler:
        layers["pooler"] = (names.pooler[task],)
    if task == "masked":
        layers |= {"head.dense": (names.dense,), "head.norm": (names.norm,)}
    elif task != "features":
        layers["classifier"] = (names.classifier[task],)
    for ours, modules in layers.items():
        for leaf in ("weight", "bias"):
            yield f"{ours}.{leaf}", tuple(f"{theirs}.{leaf}" for theirs in modules)
    if task == "masked":
        yield "head.bias", (names.bias[-1 if config.tie_word_embeddings else 0],)
        if not config.tie_word_embeddings:
            yield "head.decoder", (f"{names.decoder}.weight",)


def to_files(names: Names, state: Arrays, config: EncoderConfig) -> Arrays:
    """The state of a model under its names in Hugging Face's files."""
    arrays = {}
    for ours, theirs in tensors(names, config):
        rows = state[ours].shape[0] // len(theirs)
        for place, name in enumerate(theirs):
            arrays[name] = state[ours][place * rows : (place + 1) * rows]
    if config.task == "masked" and not config.tie_word_embeddings:
        arrays |= dict.fromkeys(names.bias, state["head.bias"])
    return arrays


def from_files(names: Names, arrays: Arrays, config: EncoderConfig) -> Arrays:
    """The reverse; the prefix is optional, LayerNorms may have their old names.

    Position buffers are dropped, and with a warning the weights of heads that the model lacks.
    ValueError lists what is missing and what is not known.
    """
    if config.n_layer > len(arrays):
        raise ValueError(
            f"{config.model_type}: {config.n_layer} layers configured, but only {len(arrays)} "
            "tensors in the files; they do not belong together"
        )
    given = spelled_alike(names, arrays, config)
    wanted = list(tensors(names, config))
    known = {name for _, theirs in wanted for name in theirs}
    if config.task == "masked" and config.tie_word_embeddings:
        tie(given, f"{names.decoder}.weight", names.prefix + WORDS, config.model_type)
        for twin in names.bias[:-1]:
            tie(given, twin, names.bias[-1], config.model_type)
    elif config.task == "masked":
        for twin in names.bias[1:]:  # which no decoder reads
            if twin in given:
                given.setdefault(names.bias[0], given.pop(twin))
    missing = [name for _, theirs in wanted for name in theirs if name not in given]
    others = tuple(heads(names))
    unused = [name for name in given if name not in known]
    unknown = [name for name in unused if not name.startswith(others)]
    if missing or unknown:
        problems = [f"missing {name}" for name in missing] + [f"unknown {name}" for name in unknown]
        more = f"; {len(problems) - 6} more" if len(problems) > 6 else ""
        raise ValueError(f"{config.model_type}: {'; '.join(problems[:6])}{more}")
    if unused and config.add_pooling_layer:
        warnings.warn(
            f"{config.model_type}: {config.architecture} does not use {', '.join(sorted(unused))}",
            stacklevel=2,
        )
    return {
        ours: given[theirs[0]] if len(theirs) == 1 else joined(given, theirs, config.model_type)
        for ours, theirs in wanted
    }


def joined(given: Arrays, names: tuple[str, ...], family: str) -> Joined:
    """Several tensors of one shape as one, put together when it is used."""
    shapes = {tuple(given[name].shape) for name in names}
    if len(shapes) > 1:
        raise ValueError(
            f"{family}: {', '.join(names)} have the shapes {', '.join(map(str, sorted(shapes)))}, "
            "equal ones are needed"
        )
    return Joined([given[name] for name in names])


def spelled_alike(names: Names, arrays: Arrays, config: EncoderConfig) -> Arrays:
    """The arrays with their names as transformers writes them today for this architecture."""
    body = ("embeddings.", names.layer, "pooler.")
    given = {}
    for name, array in arrays.items():
        name = name.removeprefix(names.prefix)
        for old, new in OLD_ENDINGS.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        if name in BUFFERS:
            continue
        if config.task != "features" and name.startswith(body):
            name = names.prefix + name
        if name in given:
            raise ValueError(f"{config.model_type}: {name} is there twice, one is needed")
        given[name] = array
    return given


def heads(names: Names) -> Iterator[str]:
    """How the names of weights begin that one architecture of the family has and another lacks."""
    for name in (*names.pooler.values(), *names.classifier.values(), names.dense, names.norm):
        yield f"{name}."
        yield f"{names.prefix}{name}."
    yield f"{names.decoder}."
    yield from names.bias
    yield from names.unused

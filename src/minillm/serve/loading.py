"""From the paths of a command line to the models that are served."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from minillm import device_memory, kernels, tokenizers
from minillm.generation.budget import Budget
from minillm.generation.drafting import require_same_vocabulary
from minillm.models import adapter as adapters
from minillm.models import embedding, folder
from minillm.models.opening import find, open_config
from minillm.quantities import counted
from minillm.serve.catalogue import Served, serve_model
from minillm.serve.settings import Settings
from minillm.tasks import heads
from minillm.tasks.classification import Classification


def name_of(path: str) -> str:
    """What a model is called where it is given no name: the last word of its path."""
    return Path(path).stem if path.endswith(".gguf") else Path(path).absolute().name


def cache_bytes(settings: Settings) -> int:
    """What is asked for, else half of the memory of the models' device that is free now, or of a
    GB where the system does not tell."""
    if settings.cache_bytes is not None:
        return settings.cache_bytes
    return max(1, (device_memory.free(kernels.get_default_device()) or 1 << 30) // 2)


def open_served(name: str, path: str, settings: Settings, budget: Budget | None = None) -> Served:
    """The model of a folder, a .gguf file or a pulled name, ready to be served; ValueError in one
    line for what cannot be."""
    place = find(path)
    config = open_config(place)[1]
    if config.kind != "encoder":
        return serve_model(name, path, *folder.load(path), settings, budget)
    if config.task == "sequence":
        ready = heads.load(Classification(), path)
        return serve_encoder(name, path, ready.encoding.tokenizer, classifier=ready)
    if config.task in ("features", "masked"):
        embedder = embedding.load(path)
        return serve_encoder(name, path, embedder.tokenizer, embedder=embedder)
    raise ValueError(
        f"serve: {path} is a {config.architecture}, a decoder, an encoder-decoder, an embedder or "
        "a classifier of texts is needed (minillm task runs it)"
    )


def serve_encoder(
    name: str, path: str, tokenizer: Any, *, embedder: Any = None, classifier: Any = None
) -> Served:
    """An encoder that gives vectors or classes."""
    if embedder is not None:
        model, context = embedder.model, embedder.max_length
    else:
        model, context = classifier.model, classifier.encoding.length
    parts = {"embedder": embedder, "classifier": classifier}
    return Served(name, path, model, tokenizer, None, context, **parts)


def add_draft(served: Served, path: str) -> None:
    """Let a smaller model with the same tokenizer guess ahead; ValueError for another one."""
    draft = folder.load(path)
    if served.kind != "decoder" or draft[0].config.kind != "decoder":
        raise ValueError(f"draft: {served.path} and {path}, two decoders are needed")
    require_same_vocabulary(served.tokenizer, draft[1])
    served.draft = draft


def open_adapter(
    name: str, base: Served, path: str, settings: Settings, budget: Budget | None = None
) -> Served:
    """A LoRA adapter beside a model whose weights it shares; its chat template goes first."""
    if base.kind != "decoder":
        raise ValueError(f"serve: {base.path} is an {base.kind}, adapters need a decoder")
    model, tokenizer = twin(base.model), copy.copy(base.tokenizer)
    adapters.load(model, path, folder.logits_of(base.model))
    if (Path(path) / "tokenizer.json").is_file():
        own = tokenizers.load(Path(path))
        if own.vocab_size != tokenizer.vocab_size:
            raise ValueError(
                f"serve: the tokenizer of {path} has {counted(own.vocab_size, 'token')}, the base "
                f"{tokenizer.vocab_size:,}; the base it was made for is needed"
            )
        tokenizer.chat_template = own.chat_template or tokenizer.chat_template
    return serve_model(name, base.path, model, tokenizer, settings, budget, path)


def twin(model: Any) -> Any:
    """Another tree of modules with the same parameters: layers put into one do not show in the
    other."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, shared)

"""The model of a tuning run: its base opened, and of it what the method trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minillm.formats import hf
from minillm.models import adapter
from minillm.models import folder as model_folder
from minillm.models.adapter import Lora
from minillm.tokenizers import Tokenizer
from minillm.training import methods
from minillm.training.tuning_data import DEFAULT_CONTEXT
from minillm.training.tuning_settings import PREFERENCE_SHARE, RATES, TuneSettings

BATCH = 4


def open_base(path: str, template: str | None = None) -> tuple[Any, Tokenizer]:
    """A decoder and its tokenizer, with another chat template if one is given."""
    model, tokenizer = model_folder.load(path)
    if model.config.kind != "decoder":
        other = "; name what an encoder is to do with --task" * (model.config.kind == "encoder")
        raise ValueError(f"finetune: {path} is an {model.config.kind}, a decoder is needed{other}")
    if template is not None:
        try:
            tokenizer.chat_template = Path(template).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"template: {template} is not UTF-8 ({error}), it is needed") from None
    return model, tokenizer


def context_of(settings: TuneSettings, model: Any) -> int:
    """Tokens of the longest example: as asked, else 512 or what the model has."""
    most = model.config.context
    if settings.context is None:
        return min(DEFAULT_CONTEXT, most or DEFAULT_CONTEXT)
    if most is not None and settings.context > most:
        raise ValueError(f"context: {settings.context}, at most {most} (the model's) is needed")
    return settings.context


def decided(settings: TuneSettings, model: Any) -> TuneSettings:
    """With what was left open chosen by the method and the model."""
    preferring = settings.objective != "answers"
    lr = RATES[settings.method] * (PREFERENCE_SHARE if preferring else 1.0)
    return replace(
        settings,
        context=context_of(settings, model),
        batch=settings.batch or BATCH,
        lr=settings.lr or lr,
        beta=settings.beta or ({"dpo": 0.1, "simpo": 2.0}.get(settings.objective)),
    )


def reference_prompt(model: Any) -> np.ndarray:
    """The ids by whose logits a base is known again."""
    return hf.reference_prompt(model.config.vocab_size, model.config.context)


def added(model: Any) -> int:
    """Numbers of all adapters."""
    return sum(p.size for _, layer in adapter.adapted(model) for p in (layer.lora_A, layer.lora_B))


def lora_of(settings: Any) -> Lora:
    """The adapters that the settings ask for."""
    targets = tuple(filter(None, (settings.targets or "").split(",")))
    return Lora(settings.rank, settings.alpha, targets, settings.lora_dropout, settings.rslora)


def choose_trained(model: Any, settings: TuneSettings, blocks: int) -> str:
    """Let what the method trains require gradients, and nothing else; what that is, in words.

    `blocks` is how many matrices lay in blocks when the model was opened: without the extension
    they are widened when they are first used.
    """
    if hasattr(model, "recompute"):
        model.recompute = settings.recompute
    match settings.method:
        case "qlora" if not blocks:
            raise ValueError(
                f"finetune: {settings.base} has no quantised matrix, qlora needs one; make it with "
                f"minillm quantize {settings.base} OUT.gguf, or use --method lora"
            )
        case "lora" | "qlora":
            if settings.method == "lora":
                methods.widen(model)
            modules = adapter.attach(model, lora_of(settings), settings.seed)
            return f"{settings.method} of rank {settings.rank} on {len(modules)} layers"
    methods.widen(model)
    match settings.method:
        case "head":
            methods.train_head(model)
            return "its head"
        case "last-n":
            methods.train_last(model, settings.last)
            return f"its last {settings.last} blocks and the head"
    methods.train_all(model)
    return "all"

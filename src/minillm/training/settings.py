"""Every decision of a training run, by one name: command line, TOML file and run folder alike."""

from __future__ import annotations

import math
import os
import re
import tomllib
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from minillm.optim import SCHEDULES
from minillm.tokenizers.training import KINDS
from minillm.words import meant, nearest

PRECISIONS = ("f32", "bf16")
ON_NAN = ("skip", "stop")


def _option(default: Any, help: str, kind: type = int, **limits: Any) -> Any:
    return field(default=default, metadata={"help": help, "kind": kind, **limits})


@dataclass
class Settings:
    """None means: chosen to fit the text and the machine."""

    tokenizer: str | None = _option(None, "kind of tokenizer", str, choices=KINDS)
    vocab_size: int | None = _option(None, "size of the vocabulary", low=2)
    byte_fallback: bool | None = _option(
        None, "characters only: spell rare and unseen ones in bytes", bool
    )
    layers: int | None = _option(None, "blocks", low=1)
    heads: int | None = _option(None, "attention heads of a block", low=1)
    width: int | None = _option(None, "features of a token, a multiple of the heads", low=1)
    context: int | None = _option(None, "tokens the model sees at once", low=1)
    batch: int | None = _option(None, "windows of a step, for each accumulation", low=1)
    accumulate: int = _option(1, "batches whose gradients make one step", low=1)
    steps: int | None = _option(None, "steps to train", low=1)
    time: float | None = _option(
        None, "train for this long, like 90s, 10m or 1.5h, instead of --steps", float, duration=True
    )
    lr: float | None = _option(None, "peak learning rate", float, low=0.0, above=True)
    warmup: int | None = _option(
        None, "steps of linear warm-up; with --time it is the first 5 %% of the run", low=0
    )
    schedule: str = _option("cosine", "learning rate after warm-up", str, choices=SCHEDULES)
    final_lr: float = _option(
        0.1, "last learning rate as a share of the peak", float, low=0.0, high=1.0
    )
    dropout: float | None = _option(None, "share of activations zeroed", float, low=0.0, high=0.95)
    weight_decay: float = _option(0.1, "decoupled weight decay of matrices", float, low=0.0)
    beta1: float = _option(0.9, "AdamW's decay of the mean gradient", float, low=0.0, high=0.9999)
    beta2: float = _option(
        0.99, "AdamW's decay of the squared gradient", float, low=0.0, high=0.99999
    )
    clip: float = _option(1.0, "largest norm of the gradient, 0 for none", float, low=0.0)
    seed: int = _option(0, "seed of weights, order and dropout", low=0)
    val_fraction: float = _option(
        0.1, "share of the text kept for validation", float, low=0.0, high=0.9
    )
    eval_every: int | None = _option(None, "steps between validations", low=1)
    eval_tokens: int | None = _option(
        None, "validation tokens used each time (all at the end)", low=1
    )
    save_every: int | None = _option(None, "steps between saves", low=1)
    prompt: str | None = _option(None, "what samples begin with", str)
    sample_tokens: int = _option(96, "length of the samples shown, 0 for none", low=0)
    precision: str | None = _option(
        None, "operands of matrix products (bf16 if clearly faster here)", str, choices=PRECISIONS
    )
    recompute: bool = _option(False, "keep less and compute each block twice: less memory", bool)
    threads: int | None = _option(None, "threads of the extension (the fastest here)", low=1)
    on_nan: str = _option("skip", "at a non-finite loss or gradient", str, choices=ON_NAN)
    max_skips: int = _option(5, "skipped steps in a row that end the run", low=1)
    encoding: str = _option("utf-8", "encoding of the text", str)
    errors: str = _option("strict", "bytes that do not decode", str, choices=("strict", "replace"))
    keep_newlines: bool = _option(False, "leave CR and CRLF as they are", bool)
    text_field: str = _option("text", "field of a JSON line that holds the text", str)

    def __post_init__(self) -> None:
        for option in fields(self):
            check(option, getattr(self, option.name))
        if self.steps is not None and self.time is not None:
            raise ValueError("train: both --steps and --time given, one of them is needed")
        if self.warmup is not None and self.time is not None:
            raise ValueError(
                "train: --warmup is in steps, with --time it is the first 5 % of the run; "
                "leave --warmup out"
            )
        if self.warmup is not None and self.steps is not None and self.warmup > self.steps:
            raise ValueError(
                f"train: --warmup {self.warmup} is longer than the {self.steps} --steps of the run"
            )
        if self.byte_fallback is not None and self.tokenizer != "char":
            raise ValueError("train: --byte-fallback goes with --tokenizer char only")

    def require_complete(self) -> None:
        """ValueError if anything is left open that a run needs."""
        optional = {"vocab_size", "byte_fallback", "prompt"}
        optional |= {"time"} if self.time is None else {"steps", "warmup"}
        for option in fields(self):
            if getattr(self, option.name) is None and option.name not in optional:
                raise ValueError(f"no {flag(option.name)} given, a value is needed")

    def to_dict(self) -> dict[str, Any]:
        """By option name, without those left open."""
        return {flag(name): value for name, value in asdict(self).items() if value is not None}


def flag(name: str) -> str:
    """The name users meet: `vocab-size` for `vocab_size`."""
    return name.replace("_", "-")


def option_fields() -> list[Field[Any]]:
    return list(fields(Settings))


def check(option: Field[Any], value: Any) -> None:
    """ValueError or TypeError in one line unless `value` fits the option."""
    if value is None:
        return
    name, limits = flag(option.name), option.metadata
    kind = limits["kind"]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise TypeError(f"{name}: {value!r}, {_WORDS[kind]} is needed")
    if "choices" in limits and value not in limits["choices"]:
        near = nearest(value, limits["choices"])
        hint = f"; did you mean {near}?" if near else ""
        known = ", ".join(limits["choices"])
        raise ValueError(f"{name}: {value!r}, one of {known} is needed{hint}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name}: {value}, a finite number is needed")
    low, high = limits.get("low"), limits.get("high")
    if low is not None and (value < low or (limits.get("above") and value == low)):
        needed = f"more than {low}" if limits.get("above") else f"{low} or more"
        raise ValueError(f"{name}: {value}, {needed} is needed")
    if high is not None and value > high:
        raise ValueError(f"{name}: {value}, {high} or less is needed")
    if limits.get("duration") and value <= 0:
        raise ValueError(f"{name}: {value} seconds, more than 0 is needed")


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """90, 90s, 10m or 1.5h in seconds; ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"time: {text!r}, a duration like 90s, 10m or 1.5h is needed")
    return float(match[1]) * _UNITS[match[2]]


def read_toml(path: str | os.PathLike[str], extra: tuple[str, ...] = ()) -> dict[str, Any]:
    """Options of a TOML file by attribute name; one-line ValueError for unknown keys, bad values.

    `extra` names keys that are known besides the settings.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML ({error})") from error
    known = {flag(option.name): option for option in option_fields()}
    values = {}
    for key, value in content.items():
        if key not in known and key not in extra:
            rest = meant(key, [*known, *extra], "; minillm train --help lists all")
            raise ValueError(f"{path}: unknown key {key!r}{rest}")
        if key in known:
            try:
                value = _option_value(known[key], value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: {error}") from error
        values[key.replace("-", "_")] = value
    return values


def _option_value(option: Field[Any], value: Any) -> Any:
    """A value as TOML gives it, as the command line would give it."""
    if option.metadata.get("duration") and isinstance(value, str):
        value = seconds(value)
    check(option, value)
    return float(value) if option.metadata["kind"] is float else value

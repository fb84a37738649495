"""Every decision of a training run, by one name: command line, TOML file and run folder alike."""

from __future__ import annotations

from dataclasses import Field, asdict, dataclass, fields
from typing import Any, ClassVar

from minillm import devices
from minillm.optim import SCHEDULES
from minillm.tokenizers.training import KINDS, OTHER_KINDS
from minillm.training.options import bytes_of, check, fields_of, flag, option, require_use
from minillm.training.pretraining import OBJECTIVES, OF_PAIRS, find

PRECISIONS = ("f32", "bf16")
OPTIMIZERS = ("adamw", "adamw8bit", "muon")
ON_NAN = ("skip", "stop")
_OPTIMIZER = (
    "muon: AdamW but for the matrices of blocks; adamw8bit: its state in a quarter of the memory"
)
_OBJECTIVE = (
    "causal: each token from those before it (GPT-2); mlm: hidden ones from those around (BERT); "
    "span: spans that are missing (T5); prefix: the rest behind a beginning (T5); fim: as causal, "
    "and the middle behind both ends (GPT-2); translate: a text from another (--family)"
)


@dataclass
class LoopSettings:
    """What every run of a Trainer decides. None means: chosen to fit the data and the machine."""

    command: ClassVar[str] = "train"

    batch: int | None = option(None, "windows of a step, for each accumulation", low=1)
    accumulate: int = option(1, "batches whose gradients make one step", low=1)
    steps: int | None = option(None, "steps to train", low=1)
    time: float | None = option(
        None, "train for this long, like 90s, 10m or 1.5h, instead of --steps", float, duration=True
    )
    lr: float | None = option(None, "peak learning rate", float, low=0.0, above=True)
    warmup: int | None = option(
        None, "steps of linear warm-up; with --time it is the first 5 %% of the run", low=0
    )
    schedule: str = option("cosine", "learning rate after warm-up", str, choices=SCHEDULES)
    final_lr: float = option(
        0.1, "last learning rate as a share of the peak", float, low=0.0, high=1.0
    )
    optimizer: str = option("adamw", _OPTIMIZER, str, choices=OPTIMIZERS)
    weight_decay: float = option(0.1, "decoupled weight decay of matrices", float, low=0.0)
    beta1: float = option(0.9, "AdamW's decay of the mean gradient", float, low=0.0, high=0.9999)
    beta2: float = option(
        0.99, "AdamW's decay of the squared gradient", float, low=0.0, high=0.99999
    )
    ema: float | None = option(
        None,
        "validate and keep an average of the weights that decays by this, such as 0.999",
        float,
        low=0.0,
        above=True,
        high=0.999999,
    )
    patience: int | None = option(
        None, "end after so many validations in a row that find nothing better", low=1
    )
    clip: float = option(1.0, "largest norm of the gradient, 0 for none", float, low=0.0)
    seed: int = option(0, "seed of weights, order and dropout", low=0)
    eval_every: int | None = option(None, "steps between validations", low=1)
    save_every: int | None = option(None, "steps between saves", low=1)
    sample_tokens: int = option(96, "length of the samples shown, 0 for none", low=0)
    precision: str | None = option(
        None, "operands of matrix products (bf16 if clearly faster here)", str, choices=PRECISIONS
    )
    recompute: bool = option(False, "keep less and compute each block twice: less memory", bool)
    threads: int | None = option(None, "threads of the extension (the fastest here)", low=1)
    device: str = option("cpu", "where it computes: cpu, cuda or cuda:N", str)
    max_memory: str | None = option(
        None, "most memory, like 800M or 1.5G: refuse what needs more, bound a GPU's", str
    )
    on_nan: str = option("skip", "at a non-finite loss or gradient", str, choices=ON_NAN)
    max_skips: int = option(5, "skipped steps in a row that end the run", low=1)

    def __post_init__(self) -> None:
        command = self.command
        for one in fields(self):
            check(one, getattr(self, one.name))
        devices.number_of(self.device)
        if self.max_memory is not None:
            bytes_of(self.max_memory)
        if self.steps is not None and self.time is not None:
            raise ValueError(f"{command}: both --steps and --time given, one of them is needed")
        if self.warmup is not None and self.time is not None:
            raise ValueError(
                f"{command}: --warmup is in steps, with --time it is the first 5 % of the run; "
                "leave --warmup out"
            )
        if self.warmup is not None and self.steps is not None and self.warmup > self.steps:
            raise ValueError(
                f"{command}: --warmup {self.warmup} is longer than the {self.steps} --steps of "
                "the run"
            )

    @property
    def optional(self) -> set[str]:
        """What a run may leave open."""
        open_length = {"time"} if self.time is None else {"steps", "warmup"}
        return open_length | {"ema", "patience", "max_memory"}

    @property
    def most_bytes(self) -> int | None:
        """--max-memory in bytes."""
        return None if self.max_memory is None else bytes_of(self.max_memory)

    @property
    def evaluated(self) -> int | None:
        """What each validation during the run looks at, in the unit of its objective; None: all."""
        return None

    def require_complete(self) -> None:
        """ValueError if anything is left open that a run needs."""
        for one in fields(self):
            if getattr(self, one.name) is None and one.name not in self.optional:
                raise ValueError(f"no {flag(one.name)} given, a value is needed")

    def to_dict(self) -> dict[str, Any]:
        """By option name, without those left open."""
        return {flag(name): value for name, value in asdict(self).items() if value is not None}


@dataclass
class Settings(LoopSettings):
    """Those of pretraining on text."""

    optimizer: str | None = option(  # type: ignore[assignment]  # chosen with the model
        None, f"{_OPTIMIZER} (muon if its own work is less than a step's)", str, choices=OPTIMIZERS
    )
    objective: str = option("causal", _OBJECTIVE, str, choices=(*OBJECTIVES, OF_PAIRS))
    tokenizer: str | None = option(None, "kind of tokenizer", str, choices=(*KINDS, *OTHER_KINDS))
    vocab_size: int | None = option(None, "size of the vocabulary", low=2)
    byte_fallback: bool | None = option(
        None, "characters only: spell rare and unseen ones in bytes", bool
    )
    layers: int | None = option(None, "blocks", low=1)
    heads: int | None = option(None, "attention heads of a block", low=1)
    width: int | None = option(None, "features of a token, a multiple of the heads", low=1)
    context: int | None = option(None, "tokens the model sees at once", low=1)
    dropout: float | None = option(None, "share of activations zeroed", float, low=0.0, high=0.95)
    label_smoothing: float = option(
        0.0, "share of a target that all tokens have alike, in training", float, low=0.0, high=0.9
    )
    stochastic_depth: float = option(
        0.0,
        "probability that the last block is left out of a batch, less for those before it",
        float,
        low=0.0,
        high=0.95,
        objectives=("causal", "fim"),
    )
    document_mask: bool = option(
        False,
        "read each document as if it stood alone: no attention to others",
        bool,
        objectives=("causal",),
    )
    whole_word: bool = option(
        False, "hide all pieces of a word or none of them", bool, objectives=("mlm",)
    )
    fim_rate: float = option(
        0.5, "share of windows with the middle last", float, low=0.0, high=1.0, objectives=("fim",)
    )
    fim_suffix_first: float = option(
        0.5, "share of these with the suffix first", float, low=0.0, high=1.0, objectives=("fim",)
    )
    val_fraction: float = option(
        0.1, "share of the text kept for validation", float, low=0.0, high=0.9
    )
    eval_tokens: int | None = option(
        None, "validation tokens used each time (all at the end)", low=1
    )
    prompt: str | None = option(None, "what samples begin with", str)
    encoding: str = option("utf-8", "encoding of the text", str)
    errors: str = option("strict", "bytes that do not decode", str, choices=("strict", "replace"))
    keep_newlines: bool = option(False, "leave CR and CRLF as they are", bool)
    text_field: str = option("text", "field of a JSON line that holds the text", str)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.byte_fallback is not None and self.tokenizer != "char":
            raise ValueError("train: --byte-fallback goes with --tokenizer char only")
        for one in fields(self):
            if "objectives" in one.metadata:
                require_use(self, (one.name,), "objective", one.metadata["objectives"])
        if self.objective == OF_PAIRS:
            raise ValueError(f"objective: {OF_PAIRS} learns from pairs, not from texts alone")
        possible = find(self.objective).tokenizers
        if self.tokenizer not in (None, *possible):
            raise ValueError(
                f"tokenizer: {self.tokenizer!r} with --objective {self.objective}, "
                f"{' or '.join(possible)} is needed"
            )

    @property
    def optional(self) -> set[str]:
        return super().optional | {"tokenizer", "vocab_size", "byte_fallback", "prompt"}

    @property
    def evaluated(self) -> int | None:
        return self.eval_tokens


def option_fields() -> list[Field[Any]]:
    return fields_of(Settings)

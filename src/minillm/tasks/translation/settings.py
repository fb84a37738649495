"""Every decision of a run that learns to translate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minillm.data.tables import POLICIES
from minillm.tasks.translation.vocabulary import KINDS
from minillm.training.options import flag, option
from minillm.training.pretraining import OF_PAIRS
from minillm.training.settings import OPTIMIZERS, LoopSettings

VAL_FRACTION = 0.05


@dataclass
class TranslationSettings(LoopSettings):
    """Those of `minillm train --objective translate`."""

    command: ClassVar[str] = "train"

    batch: int | None = option(None, "pairs of a step, for each accumulation", low=1)
    optimizer: str = option("adamw", "how weights are updated", str, choices=OPTIMIZERS)
    final_lr: float = option(
        0.0, "last learning rate as a share of the peak", float, low=0.0, high=1.0
    )
    objective: str = option(OF_PAIRS, "what is learnt", str, choices=(OF_PAIRS,))
    tokenizer: str = option("bpe", "kind of tokenizer", str, choices=KINDS)
    vocab_size: int | None = option(None, "size of the vocabulary", low=2)
    family: str = option(
        "transformer",
        "transformer: as in the paper; t5: transformers opens it, learns more slowly",
        str,
        choices=("transformer", "t5"),
    )
    layers: int = option(3, "blocks of the encoder, and of the decoder", low=1)
    heads: int | None = option(None, "attention heads of a block", low=1)
    width: int = option(256, "features of a token, a multiple of the heads", low=1)
    dropout: float = option(0.3, "share of activations zeroed", float, low=0.0, high=0.95)
    label_smoothing: float = option(
        0.1, "share of a target that is spread over all tokens", float, low=0.0, high=0.95
    )
    subword_dropout: float = option(
        0.1, "bpe: share of merges undone in training", float, low=0.0, high=0.95
    )
    max_length: int = option(256, "longest side of a pair in tokens", low=2)
    passes: int | None = option(None, "passes over the pairs, instead of --steps", low=1)
    val: str | None = option(None, "file of pairs to validate on", str)
    val_last: int | None = option(None, "pairs at the end that are held out", low=1)
    val_fraction: float = option(
        VAL_FRACTION, "share of the pairs held out", float, low=0.0, high=0.9
    )
    eval_examples: int | None = option(
        None, "pairs looked at in each validation (all at the end)", low=1
    )
    columns: str | None = option(
        None, "columns under other names, or by their numbers, such as source=1,target=2", str
    )
    on_bad: str = option("stop", "at a row that cannot be used", str, choices=POLICIES)

    def __post_init__(self) -> None:
        super().__post_init__()
        aside = [name for name in ("val", "val_last") if getattr(self, name) is not None]
        aside += ["val_fraction"] * (self.val_fraction != VAL_FRACTION)
        if len(aside) > 1:
            raise ValueError(
                f"train: both --{flag(aside[0])} and --{flag(aside[1])} given, one of them is "
                "needed"
            )
        lengths = [name for name in ("steps", "time", "passes") if getattr(self, name) is not None]
        if len(lengths) > 1 and "passes" in lengths:
            raise ValueError(
                f"train: both --{lengths[0]} and --passes given, one of them is needed"
            )
        if self.heads is not None and self.width % self.heads:
            raise ValueError(
                f"train: {self.heads} heads do not divide the width {self.width}, a width that is "
                f"a multiple of {self.heads} is needed"
            )
        if self.tokenizer != "bpe" and self.subword_dropout:
            raise ValueError(
                f"train: --subword-dropout {self.subword_dropout} undoes merges, which --tokenizer "
                f"{self.tokenizer} has not; add --subword-dropout 0"
            )

    @property
    def optional(self) -> set[str]:
        return super().optional | {"passes", "val", "val_last", "columns"}

    @property
    def evaluated(self) -> int | None:
        return self.eval_examples

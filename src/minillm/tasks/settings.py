"""Every decision of a run that tunes an encoder for a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minillm.data.tables import POLICIES
from minillm.optim import SCHEDULES
from minillm.tasks.kinds import WORKS
from minillm.training.options import flag, option, require_use
from minillm.training.settings import LoopSettings

METHODS = ("full", "head", "last-n", "lora")
LORA = ("rank", "alpha", "targets", "lora_dropout", "rslora")
VAL_FRACTION = 0.1
RATES = {"full": 3e-4, "head": 3e-3, "last-n": 5e-4, "lora": 2e-3}


@dataclass
class TaskSettings(LoopSettings):
    """Those of `minillm finetune --task`."""

    command: ClassVar[str] = "finetune"

    schedule: str = option("linear", "learning rate after warm-up", str, choices=SCHEDULES)
    final_lr: float = option(
        0.0, "last learning rate as a share of the peak", float, low=0.0, high=1.0
    )
    weight_decay: float = option(0.01, "decoupled weight decay of matrices", float, low=0.0)
    beta2: float = option(
        0.999, "AdamW's decay of the squared gradient", float, low=0.0, high=0.99999
    )
    sample_tokens: int = option(0, "tasks write no samples", hidden=True)
    base: str | None = option(None, "the model that is tuned", str, hidden=True)
    task: str | None = option(None, "what an encoder is tuned for", str, choices=tuple(WORKS))
    method: str = option("full", "what is trained", str, choices=METHODS)
    rank: int = option(8, "of LoRA's matrices", low=1)
    alpha: float = option(16.0, "LoRA's scale, divided by the rank", float, low=0.0, above=True)
    targets: str | None = option(
        None, "layers that LoRA adapts, such as query,value (all of the blocks)", str
    )
    lora_dropout: float = option(0.0, "share of LoRA's inputs zeroed", float, low=0.0, high=0.95)
    rslora: bool = option(False, "divide alpha by the square root of the rank", bool)
    last: int = option(2, "blocks that --method last-n trains", low=1)
    passes: int | None = option(None, "passes over the examples, instead of --steps", low=1)
    dropout: float | None = option(
        None, "share of activations zeroed (the base's)", float, low=0.0, high=0.95
    )
    max_length: int | None = option(None, "longest row in tokens (the model's context)", low=4)
    val: str | None = option(None, "file of examples to validate on", str)
    val_last: int | None = option(None, "examples at the end that are held out", low=1)
    val_fraction: float = option(
        VAL_FRACTION, "share of the examples held out", float, low=0.0, high=0.9
    )
    eval_examples: int | None = option(
        None, "examples looked at in each validation (all at the end)", low=1
    )
    cloze: int = option(
        0, "qa: questions made of each example's text, learnt beside the others", low=0
    )
    temperature: float | None = option(
        None, "embed: what cosines are divided by (0.05)", float, low=0.0, above=True
    )
    columns: str | None = option(
        None, "columns under other names, such as text=review,label=stars", str
    )
    on_bad: str = option("stop", "at a row that cannot be used", str, choices=POLICIES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val is not None and self.val_last is not None:
            raise ValueError("finetune: both --val and --val-last given, one of them is needed")
        aside = [name for name in ("val", "val_last") if getattr(self, name) is not None]
        if aside and self.val_fraction != VAL_FRACTION:
            raise ValueError(
                f"finetune: both --{flag(aside[0])} and --val-fraction given, one of them is needed"
            )
        require_use(self, ("last",), "method", ("last-n",))
        require_use(self, LORA, "method", ("lora",))
        if self.cloze and self.task != "qa":
            raise ValueError(f"finetune: --cloze {self.cloze} goes with --task qa only")
        if self.temperature is not None and self.task != "embed":
            raise ValueError("finetune: --temperature goes with --task embed only")
        if self.method == "head" and self.task == "embed":
            raise ValueError(
                "finetune: --method head trains what comes after the blocks, vectors have nothing "
                "there; --method full or last-n is needed"
            )
        lengths = [name for name in ("steps", "time", "passes") if getattr(self, name) is not None]
        if len(lengths) > 1 and "passes" in lengths:
            raise ValueError(
                f"finetune: both --{lengths[0]} and --passes given, one of them is needed"
            )

    @property
    def optional(self) -> set[str]:
        return super().optional | {
            "passes",
            "targets",
            "dropout",
            "max_length",
            "val",
            "val_last",
            "temperature",
            "columns",
        }

    @property
    def evaluated(self) -> int | None:
        return self.eval_examples

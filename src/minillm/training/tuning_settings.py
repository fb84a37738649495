"""Every decision of a tuning run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minillm.training.options import option, require_use
from minillm.training.settings import LoopSettings

METHODS = ("full", "lora", "qlora", "head", "last-n")
ADAPTERS = ("lora", "qlora")
OBJECTIVES = ("answers", "dpo", "simpo")
BAD_ROWS = ("stop", "skip")
RATES = {"full": 2e-5, "lora": 5e-4, "qlora": 5e-4, "head": 1e-3, "last-n": 5e-5}
PREFERENCE_SHARE = 0.1  # of the learning rate: preferences go astray sooner


@dataclass
class TuneSettings(LoopSettings):
    """Those of `minillm finetune`."""

    command: ClassVar[str] = "finetune"

    base: str | None = option(None, "the model that is tuned", str, hidden=True)
    method: str = option("lora", "what is trained", str, choices=METHODS)
    objective: str = option(
        "answers", "learn answers, or which of two is preferred", str, choices=OBJECTIVES
    )
    rank: int = option(8, "of LoRA's matrices", low=1)
    alpha: float = option(16.0, "LoRA's scale, divided by the rank", float, low=0.0, above=True)
    targets: str | None = option(
        None, "layers that LoRA adapts, such as q_proj,v_proj (all of the blocks)", str
    )
    lora_dropout: float = option(0.0, "share of LoRA's inputs zeroed", float, low=0.0, high=0.95)
    rslora: bool = option(False, "divide alpha by the square root of the rank", bool)
    last: int = option(2, "blocks that --method last-n trains", low=1)
    beta: float | None = option(
        None, "scale of preferences (0.1; 2 for simpo)", float, low=0.0, above=True
    )
    gamma: float = option(1.0, "margin of simpo", float, low=0.0)
    label_smoothing: float = option(
        0.0, "share of a target that all tokens have alike, in training", float, low=0.0, high=0.9
    )
    context: int | None = option(None, "longest example in tokens", low=2)
    val_fraction: float = option(0.1, "share of the examples held out", float, low=0.0, high=0.9)
    eval_examples: int | None = option(
        None, "examples looked at in each validation (all at the end)", low=1
    )
    max_memory: str | None = option(
        None, "keep the peak below this, like 800M or 1G: smaller batches, --recompute", str
    )
    limit: int | None = option(None, "use the first N examples only", low=1)
    instruction: str | None = option(None, "put before each prompt", str)
    columns: str | None = option(
        None, "fields under other names, such as prompt=source,answer=target", str
    )
    on_bad: str = option("stop", "at a row that cannot be used", str, choices=BAD_ROWS)
    template: str | None = option(None, "file of a chat template to use instead", str)

    def __post_init__(self) -> None:
        super().__post_init__()
        adapting = ("rank", "alpha", "targets", "lora_dropout", "rslora")
        require_use(self, adapting, "method", ADAPTERS)
        require_use(self, ("last",), "method", ("last-n",))
        require_use(self, ("beta",), "objective", ("dpo", "simpo"))
        require_use(self, ("gamma",), "objective", ("simpo",))
        require_use(self, ("label_smoothing",), "objective", ("answers",))

    @property
    def optional(self) -> set[str]:
        return super().optional | {
            "targets",
            "beta",
            "limit",
            "instruction",
            "columns",
            "template",
        }

    @property
    def evaluated(self) -> int | None:
        return self.eval_examples

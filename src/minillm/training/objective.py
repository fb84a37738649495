"""What a run trains for: the one thing that a Trainer and a Run do not know.

The loop, checkpoints, the resume guarantee, `metrics.jsonl` and the report page are the same for
every task. A task is added in three moves:

1. Write a class with the members of `Objective`. A sample is known by its number: `batch` is a
   function of (seed, sample number) and nothing else, for which `data.Order` gives the
   permutations. Then a run that is cut and taken up again has the bits of one that was not.
   Dropout needs no care: the Trainer restarts its generator for each batch.
2. Name what a validation measures "val_loss" and "val_<what>"; each is recorded, shown and put on
   the report page under that name. `best` says which of them decides what model is kept.
3. Give `Trainer` the model, the objective, settings and a folder, and `Run` the Trainer. A model
   trains those of its parameters that require a gradient.

`language.LanguageModelling` is the first of them, and the shortest to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from minillm.tensor import Tensor

IGNORED = -100  # a target that is not learnt


class Best(NamedTuple):
    """The metric that decides which model is kept."""

    metric: str = "val_loss"
    highest: bool = False

    def improves(self, value: float, best: float | None) -> bool:
        """Whether `value` is better than the best so far; NaN and infinity never are."""
        if not abs(value) < float("inf"):
            return False
        return best is None or (value > best if self.highest else value < best)


BY_LOSS = Best()


class Objective(Protocol):
    """A task: its data, its loss, what is measured.

    fingerprint      SHA-256 of the data; a state goes on only with the same
    unit             what validation counts: "tokens", "examples"
    best             which of the metrics decides
    sample_tokens    tokens of a sample, or their mean
    validation_size  units there are to validate on, 0 for none
    """

    fingerprint: str
    unit: str
    best: Best

    @property
    def sample_tokens(self) -> float: ...

    @property
    def validation_size(self) -> int: ...

    def batch(self, first_sample: int, size: int) -> Any:
        """Samples first_sample ... first_sample + size - 1, in whatever form `loss` takes."""

    def tokens(self, batch: Any) -> int:
        """How many tokens the model reads in a batch."""

    def targets(self, batch: Any) -> int:
        """How many targets a batch has: the loss of a step is the mean over all of them."""

    def loss(self, model: Any, batch: Any) -> Tensor:
        """The sum of the losses of all targets of a batch."""

    def excerpt(self, batch: Any) -> str:
        """The beginning of a batch as text, to be shown where its loss is not finite."""

    def evaluate(self, model: Any, limit: int | None) -> Mapping[str, float]:
        """The metrics, "val_loss" among them, on about `limit` units, or on all.

        The model is in evaluation mode, nothing is recorded. Not called where there are none.
        """

    def sample(self, model: Any, tokens: int) -> tuple[str, str] | None:
        """A prompt and at most `tokens` tokens that the model writes after it; None for a task
        that writes nothing. ValueError if the weights overflowed."""


def smoothing(model: Any, label_smoothing: float) -> float:
    """How much labels are smoothed now: a validation measures the loss as it is."""
    return label_smoothing if model.training else 0.0


PHRASES = {"val_loss": "loss {:.4f}", "val_bpb": "{:.4f} bits per byte"}
NAMES = {"val_loss": "Validation loss", "val_bpb": "Bits per byte"}


def phrase(metrics: Mapping[str, float]) -> str:
    """The metrics in words: `loss 1.2345, accuracy 0.9000`."""
    return ", ".join(
        PHRASES.get(name, f"{plain(name)} {{:.4f}}").format(value)
        for name, value in metrics.items()
    )


def plain(metric: str) -> str:
    """`val_exact_match` as `exact match`."""
    return metric.removeprefix("val_").replace("_", " ")


def heading(metric: str) -> str:
    """The name of a metric at the head of a column."""
    name = plain(metric)
    return NAMES.get(metric, name[:1].upper() + name[1:])

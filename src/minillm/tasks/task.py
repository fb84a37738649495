"""What the tasks on encoders have in common: examples in, rows, predictions out, figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from minillm.models import folder as model_folder
from minillm.quantities import counted
from minillm.tasks import heads
from minillm.tasks.encoding import Encoding, Row
from minillm.tasks.examples import Read
from minillm.tasks.metrics import Metric
from minillm.tasks.objective import LabelledExamples
from minillm.training.objective import IGNORED, Best

SHOWN = 5


class Work(ABC):
    """A kind of example that an encoder is tuned on.

    `head` ends the name of the architecture, `kind` is that of an example. The learning rate that
    nobody asked for is `rate_share` of the method's: a new head wants more than vectors do.
    Parameters whose names begin like `unread` stay as they are: no loss asks for them.
    """

    name: str
    head: str
    kind: Any
    rate_share: float = 1.0
    unread: tuple[str, ...] = ()

    @abstractmethod
    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        """The examples of a file."""

    @abstractmethod
    def labels(self, examples: Sequence[Any]) -> tuple[str, ...]:
        """What the head tells apart; ValueError where examples leave nothing to learn."""

    def labels_in(self, example: Any) -> Sequence[str]:
        """The labels of an example, all of which the model must know."""
        return ()

    @abstractmethod
    def text(self, example: Any) -> Any:
        """What of an example is the text that others may share."""

    def texts(self, example: Any) -> tuple[str, ...]:
        """All texts of an example by which it can be known again."""
        return (str(self.text(example)),)

    @abstractmethod
    def new_model(self, base: Path, labels: tuple[str, ...], seed: int) -> Any:
        """The model of `base` as a run begins with it."""

    @abstractmethod
    def objective(self, model: Any, parts: Any, settings: Any) -> Any:
        """What a run trains for: an `Objective` that also has `tokenizer`, `rows`, `notices`."""

    def describe(self, folder: Path, model: Any, objective: Any) -> None:
        """Write into the folder of a run everything but the weights."""
        model_folder.save_description(folder, model, objective.tokenizer)

    def restored(self, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """Examples that went through JSON."""
        return [self.kind(*row) for row in rows]

    def known(
        self, examples: Sequence[Any], labels: Sequence[str], name: str, on_bad: str = "stop"
    ) -> Read:
        """The examples that have known labels only; ValueError for others unless skipped."""
        unseen: Counter[str] = Counter()
        kept, first = [], 0
        for example in examples:
            strange = set(self.labels_in(example)) - set(labels)
            unseen.update(strange)
            first = first or (example.line if strange else 0)
            if not strange:
                kept.append(example)
        if not unseen:
            return Read(list(examples), [])
        named = ", ".join(f"{label!r}" for label, _ in unseen.most_common(SHOWN))
        more = f" and {len(unseen) - SHOWN} more" if len(unseen) > SHOWN else ""
        lost = len(examples) - len(kept)
        fact = f"{counted(lost, 'example')} with labels that the model does not know: {named}{more}"
        if on_bad == "stop" or not kept:
            raise ValueError(
                f"read: {name} has {fact} (first in line {first}), labels seen in training are "
                "needed" + ("" if not kept else "; or pass over them with --on-bad skip")
            )
        return Read(kept, [f"{name}: passed over {fact}"])


class Task(Work):
    """What a head learns, and how its predictions are measured; `best` is the metric that
    decides."""

    best: Best

    @abstractmethod
    def input(self, example: Any) -> Any:
        """What of an example the model sees."""

    def text(self, example: Any) -> Any:
        return self.input(example)

    def new_model(self, base: Path, labels: tuple[str, ...], seed: int) -> Any:
        return heads.with_new_head(self, base, labels, seed)

    def objective(self, model: Any, parts: Any, settings: Any) -> LabelledExamples:
        return LabelledExamples(
            self,
            heads.encoding_of(Path(settings.base), model.config, settings.max_length),
            parts.labels,
            parts.train,
            parts.val,
            batch=settings.batch,
            seed=settings.seed,
        )

    @abstractmethod
    def rows(self, encoding: Encoding, inputs: Sequence[Any]) -> tuple[list[Row], list[str]]:
        """Rows for the model, and what is to be said about them, such as texts that were cut."""

    @abstractmethod
    def targets(self, row: Row, example: Any, labels: Sequence[str]) -> numpy.ndarray:
        """What the model should give for a row: an array of integers, -100 where anything goes."""

    @abstractmethod
    def decode(
        self, rows: Sequence[Row], outputs: Sequence[numpy.ndarray], labels: Sequence[str], n: int
    ) -> list[Any]:
        """The prediction for each of n inputs from what the model gave for their rows."""

    @abstractmethod
    def metrics(self, examples: Sequence[Any], predictions: Sequence[Any]) -> dict[str, Metric]:
        """The figures, the most telling first."""

    def stacked(self, targets: Sequence[numpy.ndarray]) -> numpy.ndarray:
        """The targets of the rows of a batch, padded on the right with -100."""
        if targets[0].ndim == 0:
            return numpy.stack(targets)
        out = numpy.full((len(targets), max(map(len, targets))), IGNORED)
        for row, target in zip(out, targets, strict=True):
            row[: len(target)] = target
        return out

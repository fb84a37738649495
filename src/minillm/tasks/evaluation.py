"""What can be measured of a model: examples in, figures out, beside what needs no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from minillm.models import embedding
from minillm.tasks import baselines, heads, similarity
from minillm.tasks.examples import Read
from minillm.tasks.kinds import TASKS
from minillm.tasks.metrics import Metric
from minillm.tasks.task import Task

Meter = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]


class Decoder(NamedTuple):
    """A model that gives the next token, and its tokenizer."""

    model: Any
    tokenizer: Any


class Evaluated(NamedTuple):
    """Figures of a model on examples, and what is to be said about these.

    `hidden` tokens stand for text that the tokenizer does not know.
    """

    metrics: dict[str, Metric]
    notices: list[str]
    hidden: int = 0


@contextmanager
def unseen(unit: str, total: int) -> Iterator[Callable[[int], object]]:
    """The Meter that shows nothing: it is told of work done, `total` of a unit."""
    yield lambda done: None


class Measure(ABC):
    """A kind of example, the model that it is for, and the figures.

    `model` is "decoder", "encoder" or "encoder-decoder"; `unit` is what the interval draws from;
    `baseline` needs no model and is called `without`, "" where there is none.
    """

    name: str
    model = "decoder"
    unit = "example"
    without = ""

    @abstractmethod
    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        """The examples of a file."""

    def known(self, model: Any, examples: Sequence[Any], name: str, on_bad: str = "stop") -> Read:
        """The examples that the model can be asked about; see `Task.known`."""
        return Read(list(examples), [])

    def require(self, model: Any) -> None:
        """ValueError for a model that cannot be measured so, whatever the examples."""
        return None

    @abstractmethod
    def evaluate(self, model: Any, examples: Sequence[Any], meter: Meter = unseen) -> Evaluated:
        """The figures of a model on examples that it can be asked about, the most telling first."""

    def leave_comparable(self, first: Evaluated, second: Evaluated) -> list[str]:
        """Take out of the figures of two models what cannot be compared, and say so."""
        return []

    def baseline(self, learnt: Sequence[Any], examples: Sequence[Any]) -> dict[str, Metric]:
        """The figures of what needs no model."""
        raise ValueError(f"baseline: {self.name} has none, leave it out")


class OfTask(Measure):
    """Of an encoder that was tuned for a task."""

    model = "encoder"

    def __init__(self, task: Task, max_length: int | None = None) -> None:
        self.task, self.max_length = task, max_length
        self.name = task.name
        self.without = {
            "classify": "the commonest label",
            "tag": "the commonest tag of each word",
            "qa": "the window of words most like the question",
        }[task.name]

    def load(self, path: str) -> heads.Ready:
        return heads.load(self.task, path, self.max_length)

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        return self.task.read(path, columns, on_bad)

    def known(self, model: Any, examples: Sequence[Any], name: str, on_bad: str = "stop") -> Read:
        return self.task.known(examples, model.labels, name, on_bad)

    def evaluate(self, model: Any, examples: Sequence[Any], meter: Meter = unseen) -> Evaluated:
        predictions, notices = model.predict([self.task.input(example) for example in examples])
        return Evaluated(self.task.metrics(examples, predictions), notices)

    def baseline(self, learnt: Sequence[Any], examples: Sequence[Any]) -> dict[str, Metric]:
        match self.task.name:
            case "classify":
                predictions: list[Any] = baselines.commonest_label(learnt, examples)
            case "tag":
                predictions = baselines.commonest_tags(learnt, examples)
            case _:
                predictions = [baselines.window_like(example) for example in examples]
        return self.task.metrics(examples, predictions)


class OfVectors(Measure):
    """Of any encoder, by its vectors of texts, which are looked for among `others` as well."""

    name, model = "embed", "encoder"
    without = "the share of words in common"

    def __init__(self, max_length: int | None = None, others: Sequence[str] = ()) -> None:
        self.max_length, self.others = max_length, others

    def load(self, path: str) -> embedding.Embedder:
        embedder = embedding.load(path)
        if self.max_length is not None:
            embedder.max_length = min(self.max_length, embedder.max_length)
        return embedder

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        return similarity.read_pairs(path, columns, on_bad)

    def evaluate(self, model: Any, examples: Sequence[Any], meter: Meter = unseen) -> Evaluated:
        return Evaluated(similarity.measured(model, examples, self.others), [])

    def baseline(self, learnt: Sequence[Any], examples: Sequence[Any]) -> dict[str, Metric]:
        return similarity.overlapping(examples, self.others)


def of_encoder(name: str, max_length: int | None = None) -> OfTask | OfVectors:
    """The measure of `name`: classify, tag, qa or embed."""
    return OfVectors(max_length) if name == "embed" else OfTask(TASKS[name], max_length)

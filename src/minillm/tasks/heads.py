"""Encoders with the head of a task: opened with the one they have, or given a new one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minillm.formats import shards
from minillm.models.embedding import load_body
from minillm.models.folder import load_model, load_tokenizer, require_fit
from minillm.models.opening import find, open_config
from minillm.tasks.encoding import Encoding

if TYPE_CHECKING:
    from minillm.tasks.task import Task, Work

POOLER = "pooler.dense.weight"


class Ready:
    """A model with the head of a task, and all that is needed to predict with it."""

    def __init__(self, task: Task, model: Any, encoding: Encoding) -> None:
        self.task, self.model, self.encoding = task, model, encoding

    @property
    def labels(self) -> tuple[str, ...]:
        return self.model.config.labels

    def predict(self, inputs: Sequence[Any]) -> tuple[list[Any], list[str]]:
        """A prediction for each input, and what is to be said about the inputs."""
        rows, notices = self.task.rows(self.encoding, inputs)
        outputs = self.encoding.outputs(self.model, rows)
        return self.task.decode(rows, outputs, self.labels, len(inputs)), notices


def require_encoder(task: Work, path: str | os.PathLike[str]) -> Path:
    """Where the model lies; ValueError unless it is an encoder."""
    place = find(path)
    kind = open_config(place)[1].kind
    if kind != "encoder":
        article = "a" if kind == "decoder" else "an"
        raise ValueError(
            f"{task.name}: {path} is {article} {kind}, an encoder is needed, such as BERT"
        )
    return place


def load(task: Task, path: str | os.PathLike[str], length: int | None = None) -> Ready:
    """A model that was tuned for the task; ValueError for another."""
    place = require_encoder(task, path)
    config = open_config(place)[1]
    wanted = config.family + task.head
    if config.architecture != wanted:
        raise ValueError(
            f"{task.name}: {path} is a {config.architecture}, a {wanted} is needed; make one "
            f"with: minillm finetune {path} DATA --task {task.name}"
        )
    model = load_model(place)
    return Ready(task, model, encoding_of(place, model.config, length))


def encoding_of(place: Path, config: Any, length: int | None) -> Encoding:
    tokenizer = load_tokenizer(place)
    require_fit(tokenizer, config.vocab_size, place)
    return Encoding(tokenizer, config, length)


def has_pooler(place: Path) -> bool:
    """Whether the files of a model hold a pooler."""
    return any(name.endswith(POOLER) for name in shards.read(place)[0])


def with_new_head(
    task: Task, path: str | os.PathLike[str], labels: tuple[str, ...], seed: int
) -> Any:
    """The encoder of `path` under a head of the task whose weights are drawn from the seed.

    A pooler of the base is taken over, that of a classifier without one is drawn as well.
    """
    place = require_encoder(task, path)
    body = load_body(place, has_pooler(place))
    family, _ = open_config(place)
    kind = "single_label_classification" if task.head == "ForSequenceClassification" else None
    config = replace(
        body.config,
        architecture=body.config.family + task.head,
        labels=labels,
        problem_type=kind,
        add_pooling_layer=True,
    )
    model = family.model(config, seed=seed)
    own = model.state_dict()
    kept = {name: array for name, array in body.state_dict().items() if name in own}
    model.load_state_dict(own | kept)
    return model

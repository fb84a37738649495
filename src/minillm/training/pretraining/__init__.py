"""What `minillm train` can train for, by the name that `--objective` takes.

An objective is a file that ends with `PRETRAINING = Pretraining(...)`, and a line in `_FILES`.
Options that say nothing under others name it in their `objectives` (see `settings`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from minillm.data import Dataset, Facts
    from minillm.tokenizers import Tokenizer
    from minillm.training.objective import Objective
    from minillm.training.settings import Settings

_FILES = {"causal": "causal", "mlm": "mlm", "span": "span", "prefix": "prefix", "fim": "fim"}
OBJECTIVES = tuple(_FILES)
OF_PAIRS = "translate"  # the one that does not learn from texts alone: `tasks.translation`


class Pretraining(NamedTuple):
    """What a run makes for its objective. Settings that are passed leave nothing open.

    family            the architecture, for people
    tokenizers        kinds of tokenizer that may be asked for
    choose_tokenizer  the kind for a text, where none was asked for
    specials          control tokens of a tokenizer of that kind that is learnt from a text
    finish            the tokenizer that was learnt with all that belongs to it
    check             ValueError for a tokenizer, prompt or context that does not do
    config            configuration of the model
    model             the untrained model of a configuration and a seed
    objective         what a Trainer trains for
    next_command      how to try the model; {run} is its folder
    rate              share of the learning rate that a GPT-2 would have
    depth             blocks of GPT-2 that a layer takes the memory of
    scores            numbers that a layer keeps for each attention score where dropout acts on them
    """

    family: str
    tokenizers: tuple[str, ...]
    choose_tokenizer: Callable[[Settings, Facts], str]
    specials: Callable[[str, Facts], tuple[str, ...]]
    check: Callable[[Settings, Tokenizer], None]
    config: Callable[[Settings, Tokenizer], Any]
    model: Callable[[Any, int], Any]
    objective: Callable[[Settings, Tokenizer, Dataset], Objective]
    next_command: str
    finish: Callable[[Tokenizer], Tokenizer] = lambda tokenizer: tokenizer
    rate: float = 1.0
    depth: float = 1.0
    scores: int = 0


def find(name: str) -> Pretraining:
    """That of an objective; its file is imported when it is first asked for."""
    found: Pretraining = importlib.import_module(f"{__name__}.{_FILES[name]}").PRETRAINING
    return found

"""How a text is to be written: all choices in one place, checked once for everybody."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from minillm.generation.option_checks import (
    AHEAD,
    CONSTRAINTS,
    check_together,
    check_values,
    flag,
    of_their_kinds,
)
from minillm.generation.sampling import Sampler
from minillm.words import meant

MAX_TOKENS = 200  # where nothing is asked for
DRAWING = {"top_k": 0, "top_p": 1, "min_p": 0, "typical": 1, "seed": 0}  # as if not asked for


@dataclass(frozen=True)
class Options:
    """What `generate`, `stream`, `complete`, the command line and a server are asked for.

    max_tokens           most tokens to write; None: 200, or fewer where the context ends before
    temperature          0 takes the most probable token; None: 1, or 0 with beams or contrastive
    top_k, top_p, min_p, typical, repetition_penalty, frequency_penalty, presence_penalty
                         as in `Sampler`
    stop                 a string or several; the text ends before the first of them. Not beside a
                         constraint, whose text it could cut
    stop_ids             ids that end the text beside the tokenizer's and the model's own
    seed, n              n texts; the first is that of n=1, each has a generator of its own
    best_of              write so many, give the n whose tokens are the most probable on average
    beams                beam search this wide; length_penalty as in `beam_search`
    contrastive          contrastive search with this alpha (0 to 1) among the top_k best
    json_schema, regex, choices, grammar, calls
                         what the text must be, one of them; json_schema as text or a dict, calls
                         as `constraints.calls.Calls`
    draft, lookup        speculate with a smaller model, alone or with its tokenizer as a tuple, or
                         by looking n-grams of this length up in the text; `ahead` tokens at a time.
                         The result is as without
    logprobs             log-probabilities, in the model's own distribution, of what was written,
                         and of this many of the most probable tokens
    echo                 begin with the prompt: its text, ids and log-probabilities
    overflow             more tokens than the model's context holds: an "error" before anything is
                         written; "truncate" drops the front of the prompt; "slide" goes on from the
                         last half of the context, again and again. Both keep the control tokens
                         that stand before the text
    cache_dtype          how keys and values are kept: "float32", "bf16" or "int8"
    use_cache            False computes every position each time

    Frozen; ValueError or TypeError, one line, for a value that is impossible or contradicts
    another. Names are those of the command line's flags.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int = 0
    n: int = 1
    best_of: int | None = None
    beams: int = 1
    length_penalty: float = 1.0
    contrastive: float = 0.0
    json_schema: Any = None
    regex: str | None = None
    choices: tuple[str, ...] | None = None
    grammar: str | None = None
    calls: Any = field(default=None, repr=False)
    draft: Any = field(default=None, repr=False)
    lookup: int = 0
    ahead: int = AHEAD
    logprobs: int | None = None
    echo: bool = False
    overflow: str = "error"
    cache_dtype: str = "float32"
    use_cache: bool = True

    def __post_init__(self) -> None:
        settled = of_their_kinds(self)
        if settled["temperature"] is None:
            searched = settled["beams"] > 1 or settled["contrastive"] > 0
            settled["temperature"] = float(not searched)
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        check_values(self)
        check_together(self)

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Options by name; TypeError for a name that is not known."""
        known = [part.name for part in fields(cls)]
        for name in given:
            if name not in known:
                raise TypeError(f"generate: unknown option {name!r}{meant(name, known)}")
        return cls(**given)

    @cached_property
    def sampler(self) -> Sampler:
        """The one that these options describe."""
        assert self.temperature is not None
        return Sampler(
            self.temperature,
            self.top_k,
            self.top_p,
            min_p=self.min_p,
            typical=self.typical,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
        )

    @property
    def unused(self) -> str:
        """What was asked for and changes nothing: choices among draws where none is made."""
        if not self.sampler.greedy:
            return ""
        names = [name for name in DRAWING if getattr(self, name) != DRAWING[name]]
        if self.contrastive and "top_k" in names:
            names.remove("top_k")
        if not names:
            return ""
        verb = "changes" if len(names) == 1 else "change"
        return (
            f"temperature 0 takes the most probable token, {' and '.join(map(flag, names))} {verb} "
            "nothing"
        )

    @property
    def rows(self) -> int:
        """How many texts are written."""
        return self.n if self.best_of is None else self.best_of

    @property
    def constraint(self) -> str | None:
        """Which of the constraints is asked for."""
        return next((name for name in CONSTRAINTS if getattr(self, name) is not None), None)

    @property
    def searches(self) -> bool:
        """Whether ids come from a search that reads by itself, not from the sampler's draws."""
        return self.draft is not None or self.lookup > 0 or self.contrastive > 0

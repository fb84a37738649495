"""How a text is to be written: all choices in one place, checked once for everybody."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from minillm.generation.sampling import GREEDY_BELOW, Sampler

OVERFLOWS = ("error", "truncate", "slide")
CACHE_DTYPES = ("float32", "bf16", "int8")
CONSTRAINTS = ("json_schema", "regex", "choices", "grammar")
MAX_TOKENS = 200  # where nothing is asked for
MOST_LOGPROBS = 1000


@dataclass(frozen=True)
class Options:
    """What `generate`, `stream`, `complete`, the command line and a server are asked for.

    max_tokens           most tokens to write; None: 200, or fewer where the context ends before
    temperature          0 takes the most probable token; None: 1, or 0 with beams or contrastive
    top_k, top_p, min_p, typical, repetition_penalty, frequency_penalty, presence_penalty
                         as in `Sampler`
    stop                 a string or several; the text ends before the first of them
    stop_ids             ids that end the text beside the tokenizer's and the model's own
    seed, n              n texts; the first is that of n=1, each has a generator of its own
    best_of              write so many, give the n whose tokens are the most probable on average
    beams                beam search this wide; length_penalty as in `beam_search`
    contrastive          contrastive search with this alpha (0 to 1) among the top_k best
    json_schema, regex, choices, grammar
                         what the text must be, one of them; json_schema as text or a dict
    draft, lookup        speculate with a smaller model, or by looking n-grams of this length up in
                         the text; `ahead` tokens at a time. The result is as without
    logprobs             log-probabilities, in the model's own distribution, of what was written,
                         and of this many of the most probable tokens
    echo                 begin with the prompt
    overflow             more tokens than the model's context holds: an "error" before anything is
                         written; "truncate" drops the front of the prompt; "slide" goes on from the
                         last half of the context, again and again
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
    draft: Any = field(default=None, repr=False)
    lookup: int = 0
    ahead: int = 4
    logprobs: int | None = None
    echo: bool = False
    overflow: str = "error"
    cache_dtype: str = "float32"
    use_cache: bool = True

    def __post_init__(self) -> None:
        self._check_kinds()
        searched = self.beams > 1 or self.contrastive > 0
        settled = {
            "temperature": float(not searched) if self.temperature is None else self.temperature,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
            "stop_ids": tuple(self.stop_ids),
            "choices": None if self.choices is None else tuple(self.choices),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        self._check_values()
        self._check_combinations()

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Options by name; TypeError for a name that is not known."""
        known = [part.name for part in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise TypeError(
                    f"generate: unknown option {name!r}"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
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
    def rows(self) -> int:
        """How many texts are written."""
        return self.n if self.best_of is None else self.best_of

    @property
    def constraint(self) -> str | None:
        """Which of the constraints is asked for."""
        return next((name for name in CONSTRAINTS if getattr(self, name) is not None), None)

    @property
    def speculates(self) -> bool:
        return self.draft is not None or self.lookup > 0

    def _check_kinds(self) -> None:
        """TypeError for a value of a kind that its name cannot have."""
        for part in fields(self):
            value, declared = getattr(self, part.name), str(part.type)
            if value is None and "None" in declared or declared == "Any":
                continue
            if declared.startswith("tuple"):
                _check_sequence(part.name, value, int if part.name == "stop_ids" else str)
                continue
            kinds = KINDS[declared.removesuffix(" | None")]
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise TypeError(f"{_flag(part.name)}: {value!r}, {_named(kinds[0])} is needed")

    def _check_values(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{_flag(name)}: {value}, {least} or more is needed")
        for name, known in (("overflow", OVERFLOWS), ("cache_dtype", CACHE_DTYPES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{_flag(name)}: {getattr(self, name)!r}, one of {', '.join(known)} is needed"
                )
        if not math.isfinite(self.length_penalty):
            raise ValueError(f"length-penalty: {self.length_penalty}, a finite number is needed")
        if not 0 <= self.contrastive <= 1:
            raise ValueError(f"contrastive: {self.contrastive}, 0 <= alpha <= 1 is needed")
        if self.logprobs is not None and self.logprobs > MOST_LOGPROBS:
            raise ValueError(f"logprobs: {self.logprobs}, 0 to {MOST_LOGPROBS} is needed")
        if "" in self.stop:
            raise ValueError("stop: an empty string, at least 1 character is needed")
        if self.choices is not None and not self.choices:
            raise ValueError("choices: none are given, at least 1 is needed")
        _check_schema(self.json_schema)
        assert self.sampler is not None  # which checks what it is made of

    def _check_combinations(self) -> None:
        """ValueError for two options that cannot both be followed."""
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        greedy = self.temperature is not None and self.temperature < GREEDY_BELOW
        beams, tried = self.beams > 1, self.contrastive > 0
        search = "beams" if beams else "contrastive"
        penalised = self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty
        wrong = [
            (len(given) > 1, " and ".join(map(_flag, given[:2])), "one of them"),
            (beams and tried, "beams and contrastive", "one of them"),
            (self.draft is not None and self.lookup > 0, "draft and lookup", "one of them"),
            (self.speculates and (beams or tried), f"{self._guess} and {search}", "one of them"),
            (beams and not greedy, f"beams and temperature {self.temperature}", "temperature 0"),
            (tried and not greedy, f"contrastive and temperature {self.temperature}",
             "temperature 0"),
            (tried and self.top_k < 2, f"contrastive and top-k {self.top_k}", "top-k 2 or more"),
            (beams and self.n > self.beams, f"n {self.n} and beams {self.beams}",
             "n up to the number of beams"),
            (beams and self.best_of is not None, "best-of and beams", "one of them"),
            (self.best_of is not None and self.best_of < self.n,
             f"best-of {self.best_of} and n {self.n}", "best-of n or more"),
            (greedy and not beams and self.rows > 1,
             f"{'n' if self.best_of is None else 'best-of'} {self.rows} and "
             + ("contrastive, which gives" if tried else f"temperature {self.temperature}, which gives")
             + " one text", "a higher temperature, or beams,"),
            (self.length_penalty != 1 and not beams, "length-penalty without beams", "beams"),
            ((beams or tried) and penalised, f"{search} and penalties of tokens", "one of them"),
            (beams and (self.top_k or self.top_p < 1 or self.min_p or self.typical < 1),
             "beams and top-k, top-p, min-p or typical", "one of them"),
            (tried and given, f"contrastive and {_flag(given[0]) if given else ''}", "one of them"),
            (self.overflow == "slide" and (beams or tried or self.speculates),
             f"overflow slide and {self._guess if self.speculates else search}",
             "overflow error or truncate"),
            (not self.use_cache and self.cache_dtype != "float32",
             f"cache-dtype {self.cache_dtype} without a cache", "a cache"),
        ]  # fmt: skip
        for is_so, both, needed in wrong:
            if is_so:
                raise ValueError(f"{both}: they contradict each other, {needed} is needed")

    @property
    def _guess(self) -> str:
        return "lookup" if self.draft is None else "draft"


KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
}
LEAST = {"max_tokens": 0, "seed": 0, "n": 1, "best_of": 1, "beams": 1, "lookup": 0, "ahead": 1,
         "logprobs": 0}  # fmt: skip


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _named(kind: type) -> str:
    return {"int": "a whole number", "float": "a number", "str": "a text"}.get(
        kind.__name__, "true or false"
    )


def _check_sequence(name: str, value: Any, kind: type) -> None:
    if name == "stop" and isinstance(value, str):
        return
    known = isinstance(value, (list, tuple, set, frozenset))
    if not known or not all(isinstance(part, kind) for part in value):
        parts = "texts" if kind is str else "ids"
        raise TypeError(f"{_flag(name)}: {value!r}, a sequence of {parts} is needed")


def _check_schema(schema: Any) -> None:
    """A JSON schema is an object or a bool, or the text of one."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"json-schema: not valid JSON ({error})") from None
    if schema is not None and not isinstance(schema, (Mapping, bool)):
        raise TypeError(f"json-schema: {type(schema).__name__}, an object is needed")

"""Texts of a given form: regular expressions, JSON schemas, choices, grammars.

state = regex(r"[a-z]+\\d", tokenizer).start()
while not state.finished and remaining:
    id = sampler.pick(logits, generator, allowed=state.allowed(remaining))
    state.advance(id)
"""

from minillm.generation.constraints.calls import calls
from minillm.generation.constraints.choices import choices
from minillm.generation.constraints.constraint import Constraint, ConstraintState
from minillm.generation.constraints.grammar import grammar
from minillm.generation.constraints.json_schema import json_schema
from minillm.generation.constraints.pieces import TokenPieces
from minillm.generation.constraints.regex import regex

__all__ = [
    "Constraint",
    "ConstraintState",
    "TokenPieces",
    "calls",
    "choices",
    "grammar",
    "json_schema",
    "regex",
]

"""Flags that say how a text is written: the fields of `generation.Options`, by the same names."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from minillm.cli.parser import Once

CONSTRAINTS = ("json_schema", "regex", "choices", "grammar")  # one of them, once
TEMPERATURE = 0.8  # where nothing else is asked for
FLAGS: dict[str, tuple[type, str, str]] = {  # field: kind, what it is called, help
    "max_tokens": (int, "N", "most tokens (200, fewer where the context ends)"),
    "temperature": (float, "T", "0 is greedy (0.8; 0 with beams)"),
    "top_k": (int, "K", "only the K best, 0 for all (0)"),
    "top_p": (float, "P", "only the best whose probabilities reach P (1)"),
    "min_p": (float, "P", "only those at least P times as probable as the best (0)"),
    "typical": (float, "P", "only the most typical whose probabilities reach P (1)"),
    "repetition_penalty": (float, "R", "divides the logits of tokens that were there (1)"),
    "frequency_penalty": (float, "F", "taken off a logit each time its token was there (0)"),
    "presence_penalty": (float, "F", "taken off the logits of tokens that were there (0)"),
    "stop": (str, "TEXT", "end before this text; may be given several times"),
    "seed": (int, "N", "same seed, same text (0)"),
    "n": (int, "N", "write N texts (1)"),
    "best_of": (int, "N", "write N texts, give those whose tokens are most probable"),
    "beams": (int, "N", "beam search this wide (1: none)"),
    "length_penalty": (float, "F", "power of the length that beams are divided by (1)"),
    "contrastive": (float, "A", "contrastive search with this alpha among the --top-k best"),
    "json_schema": (str, "FILE", "write JSON that this schema accepts"),
    "regex": (str, "R", "write what this regular expression matches"),
    "choices": (str, "A,B,...", "write one of these"),
    "grammar": (str, "FILE", "write what this grammar (GBNF) derives"),
    "draft": (
        str,
        "MODEL",
        "let a smaller model guess ahead: greedy gives the same text, sampling the same chances",
    ),
    "lookup": (int, "N", "guess ahead from the last N tokens' earlier places; the same text"),
    "ahead": (int, "N", "tokens that are guessed at a time (4)"),
    "logprobs": (int, "N", "show log-probabilities, and those of the N best tokens"),
    "overflow": (str, "HOW", "a full context: error, truncate (the prompt) or slide (error)"),
    "cache_dtype": (str, "KIND", "keys and values as float32, bf16 or int8 (float32)"),
}
SETTINGS = (  # those of a talk
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "typical", "repetition_penalty",
    "frequency_penalty", "presence_penalty", "stop", "seed",
)  # fmt: skip


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str], **texts: str) -> None:
    """A flag for each of the fields; one that is not given is None. `texts` are other help."""
    for name in names:
        kind, word, text = FLAGS[name]
        text = texts.get(name, text)
        action = "append" if name == "stop" else Once if name in CONSTRAINTS else "store"
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, metavar=word, action=action, help=text
        )


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields that were given, files read; ValueError and OSError for files and stop strings."""
    from minillm.cli.texts import read_file

    every = ((name, getattr(arguments, name, None)) for name in FLAGS)
    found: dict[str, Any] = {name: value for name, value in every if value is not None}
    for name in found.keys() & {"json_schema", "grammar"}:
        found[name] = read_file(name.replace("_", "-"), found[name])
    if "choices" in found:
        found["choices"] = tuple(found["choices"].split(","))
        if "" in found["choices"]:
            raise ValueError("choices: one of them is empty, text between commas is needed")
    if found.get("beams", 1) == 1 and not found.get("contrastive"):
        found.setdefault("temperature", TEMPERATURE)
    return found

"""What a constraint costs: to compile, for a state that is new, for a state that is known.

    python -m bench.constraints TOKENIZER [--tokens N] [--json FILE]

TOKENIZER is a folder or file as `minillm.tokenizers.load` takes it. Texts are drawn from a seeded
model of random logits, the same twice: the first pass meets new states, the second known ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy

from minillm import tokenizers
from minillm.generation.constraints import Constraint, choices, grammar, json_schema, regex
from minillm.generation.constraints.pieces import TokenPieces
from minillm.tokenizers import Tokenizer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "score": {"type": "number"},
        "tags": {"type": "array", "items": {"enum": ["red", "reddish", "green"]}, "maxItems": 5},
        "born": {"type": "string", "format": "date-time"},
        "children": {"type": "array", "items": {"$ref": "#"}},
    },
    "required": ["name", "age", "born"],
}
LIST = 'root ::= "[" item ("," item)* "]"\nitem ::= [a-z]+ ":" " "? [0-9]{1,6} | root'
CASES = {
    "choices": lambda t: choices(["yes", "no", "it depends", "I do not know"], t),
    "regex": lambda t: regex(r"[A-Z]\w{3,30}( [a-z]+){2,20}\.", t),
    "schema": lambda t: json_schema(PERSON, t),
    "any json": lambda t: json_schema(True, t),
    "grammar": lambda t: grammar(LIST, t),
}
COLUMNS = "case", "compile_ms", "first_ms", "new_ms", "known_us", "known_us_worst", "advance_us"


def masks(constraint: Constraint, size: int, budget: int) -> tuple[list[float], list[float]]:
    """Seconds of each mask and each advance in one text."""
    draws, state = numpy.random.default_rng(0), constraint.start()
    asked, advanced = [], []
    for remaining in range(budget, 0, -1):
        if state.finished:
            break
        start = time.perf_counter()
        allowed = state.allowed(remaining)
        asked.append(time.perf_counter() - start)
        allowed[list(state.ends)] = False
        if not allowed.any():
            break
        id = int(numpy.where(allowed, draws.standard_normal(size), -numpy.inf).argmax())
        start = time.perf_counter()
        state.advance(id)
        advanced.append(time.perf_counter() - start)
    return asked, advanced


def measure(name: str, tokenizer: Tokenizer, budget: int) -> dict[str, float | str]:
    start = time.perf_counter()
    constraint = CASES[name](tokenizer)
    compiled = time.perf_counter()
    new, _ = masks(constraint, tokenizer.vocab_size, budget)
    known, advanced = masks(constraint, tokenizer.vocab_size, budget)
    row = {
        "case": name,
        "compile_ms": 1e3 * (compiled - start),
        "first_ms": 1e3 * new[0],
        "new_ms": 1e3 * statistics.median(new[1:] or new),
        "known_us": 1e6 * statistics.median(known),
        "known_us_worst": 1e6 * max(known),
        "advance_us": 1e6 * statistics.median(advanced),
    }
    print("  ".join(f"{row[key]:>14.4g}" if key != "case" else f"{name:14}" for key in COLUMNS))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.constraints", description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--tokens", type=int, default=200, help="of a text at most (200)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    tokenizer = tokenizers.load(options.tokenizer)
    start = time.perf_counter()
    pieces = TokenPieces(tokenizer)
    nodes = pieces.tree.nodes
    print(
        f"{tokenizer.vocab_size} tokens, {nodes} nodes, taken apart in "
        f"{1e3 * (time.perf_counter() - start):.0f} ms"
    )
    choices(["warm"], tokenizer).start().allowed(9)  # the tree of this tokenizer
    print("  ".join(f"{key:>14}" if key != "case" else f"{key:14}" for key in COLUMNS))
    rows = [measure(name, tokenizer, options.tokens) for name in CASES]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

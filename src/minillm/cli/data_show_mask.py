"""Print what a model is to learn of conversations, in colour where a person watches."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from minillm.cli.main import OK, tell

LEARNT, READ, PLAIN = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"
OPEN, CLOSE = "[[", "]]"  # around what is learnt, without colour


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", help="folder, .gguf file or pulled name")
    parser.add_argument("files", nargs="+", metavar="DATA", help="as finetune reads them")
    parser.add_argument("--count", type=int, default=5, metavar="N", help="examples shown (5)")
    parser.add_argument("--context", type=int, metavar="N", help="longest example in tokens")
    for name, shown in (
        ("instruction", "put before each prompt"),
        ("columns", "fields under other names, such as prompt=source,answer=target"),
        ("template", "file of a chat template to use instead"),
    ):
        parser.add_argument(f"--{name}", metavar="TEXT", help=shown)
    parser.add_argument(
        "--objective", choices=("answers", "dpo", "simpo"), default="answers", help="(answers)"
    )
    parser.add_argument("--on-bad", choices=("stop", "skip"), default="stop", help="(stop)")


def run(arguments: argparse.Namespace) -> int:
    from minillm.training.tuning_data import read_parts
    from minillm.training.tuning_model import context_of, open_base
    from minillm.training.tuning_settings import TuneSettings

    if arguments.count < 1:
        raise ValueError(f"count: {arguments.count}, 1 or more is needed")
    settings = TuneSettings(
        base=arguments.base,
        objective=arguments.objective,
        context=arguments.context,
        instruction=arguments.instruction,
        columns=arguments.columns,
        on_bad=arguments.on_bad,
        template=arguments.template,
        val_fraction=0.0,
    )
    model, tokenizer = open_base(arguments.base, arguments.template)
    parts = read_parts(arguments.files, tokenizer, settings, context_of(settings, model), tell)
    examples = parts.train
    colour = sys.stdout.isatty()
    for place in range(min(arguments.count, len(examples))):
        ids, learnt = examples.text(place)
        print(f"--- {place + 1}: {len(ids)} tokens, {int(learnt[1:].sum())} of them learnt")
        print("".join(marked(tokenizer, ids, learnt, colour)))
    print(
        f"{examples.targets:,} of {len(examples.ids):,} tokens are learnt in "
        f"{len(examples):,} examples"
    )
    return OK


def marked(tokenizer: Any, ids: Any, learnt: Any, colour: bool) -> Iterator[str]:
    """The text of the ids, what is learnt in green or within brackets, control tokens by name."""
    from minillm.training.console import visible

    before, after = (LEARNT, PLAIN) if colour else (OPEN, CLOSE)
    begin = 0
    while begin < len(ids):
        end = begin
        while end < len(ids) and learnt[end] == learnt[begin]:
            end += 1
        text = visible("".join(spelled(tokenizer, ids[begin:end])))
        if learnt[begin]:
            yield f"{before}{text}{after}"
        else:
            yield f"{READ}{text}{PLAIN}" if colour else text
        begin = end


def spelled(tokenizer: Any, ids: Any) -> Iterator[str]:
    """Text with the names of control tokens, which decoding may leave out."""
    names = {id: name for name, id in tokenizer.special_tokens.items()}
    held: list[int] = []
    for id in map(int, ids):
        if id in names:
            yield tokenizer.decode(held)
            yield names[id]
            held = []
        else:
            held.append(id)
    yield tokenizer.decode(held)

"""Show the tokens that a model expects next, most probable first."""

from __future__ import annotations

import argparse
import json

from minillm.cli.damage import named
from minillm.cli.machine_flags import add_machine, settle
from minillm.cli.main import OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="PATH", help="folder, .gguf file or pulled name")
    parser.add_argument("text", metavar="TEXT", help="text to go on with, - to read it from stdin")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many tokens (5)")
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace) -> int:
    from minillm.cli.texts import read_stdin
    from minillm.generation.prediction import predict
    from minillm.models.folder import load

    settle(arguments)
    model, tokenizer = load(arguments.model)
    text = read_stdin("predict") if arguments.text == "-" else arguments.text
    with named("predict", arguments.model):
        places = predict(model, tokenizer, text, arguments.top)
    if arguments.json:
        tables = [[candidate._asdict() for candidate in place] for place in places]
        content = {"top": tables[0]} if len(tables) == 1 else {"places": tables}
        print(json.dumps(content, ensure_ascii=False))
        return OK
    for number, place in enumerate(places, 1):
        if len(places) > 1:
            print(f"place {number}")
        print(f"{'id':>8}  {'token':<20} probability      logit")
        for candidate in place:
            shown = repr(candidate.token)
            print(
                f"{candidate.id:>8}  {shown:<20} {candidate.probability:>11.4%} "
                f"{candidate.logit:>10.4f}"
            )
    return OK

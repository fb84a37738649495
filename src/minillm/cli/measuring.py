"""What `eval` and `compare` share: what is measured, on what, and how it is told."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minillm.cli.machine_flags import add_machine, settle
from minillm.cli.main import tell

if TYPE_CHECKING:
    from minillm.tasks.evaluation import Evaluated, Measure

ENCODERS = ("classify", "tag", "qa", "embed")
TASKS = (*ENCODERS, "choice", "recommend", "summarize", "translate")
GOES_WITH = {  # options that only some measures have
    "context": ("perplexity",),
    "stride": ("perplexity",),
    "bos": ("perplexity",),
    "max_length": ENCODERS,
    "baseline": TASKS,
    "candidates": ("embed",),
    "prompt": ("choice",),
    "instruction": ("summarize",),
    "max_tokens": ("summarize",),
}
OWN = (  # that a measure is made with
    *("context", "stride", "bos", "max_length", "prompt"),
    *("instruction", "max_tokens"),
)
WAYS = ("perplexity", "task", "suite")
IN_SUITES = ("last", "columns", "on_bad")  # what a file says for each of its measures
MOST_RESAMPLES = 1_000_000  # the interval is known to four digits long before


def add_data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--perplexity", nargs="+", metavar="F", help="texts for a decoder to expect, each measured")
    add("--suite", metavar="F.toml", help="everything that this file asks for, in one table")
    add("--data", nargs="+", metavar="F", help="files of examples, each measured")
    add("--task", choices=TASKS, help="what the examples are of")
    add("--prompt", help="what stands before a choice, such as 'Question: {question} Answer:'")
    add("--last", type=int, metavar="N", help="of each file the last examples only")
    add("--candidates", metavar="F", help="embed: second texts of these pairs can be found too")
    add("--columns", help="columns under other names, such as text=review")
    add("--on-bad", help="at a bad row: stop (default) or skip")
    add("--context", type=int, metavar="N", help="tokens of a window (the model's context)")
    add("--stride", type=int, metavar="N", help="tokens from window to window (half a window)")
    add("--bos", help="before each window the token that begins texts: auto (default), yes or no")
    add("--instruction", metavar="TEXT", help="summarize: what is asked before each text")
    add("--max-tokens", type=int, metavar="N", help="summarize: most tokens of a summary (64)")
    add("--max-length", type=int, metavar="N", help="longest row of an encoder in tokens")
    add("--resamples", type=int, default=10_000, metavar="N", help="of the bootstrap (10000)")
    add("--seed", type=int, default=0, metavar="N", help="of the bootstrap (0)")
    add_machine(parser)
    add(
        "--json",
        nargs="?",
        const="-",
        type=_json_target,
        metavar="FILE.json",
        help="print a JSON object, or write it to a file beside the table",
    )


def _json_target(text: str) -> str:
    if text != "-" and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"{text!r}, a name that ends in .json is needed")
    return text


def prepare(arguments: argparse.Namespace) -> None:
    """ValueError for options that contradict each other or cannot be."""

    settle(arguments)
    if arguments.resamples > MOST_RESAMPLES:
        raise ValueError(f"resamples: {arguments.resamples}, {MOST_RESAMPLES} or less is needed")
    for name, least in (("resamples", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise ValueError(f"{name}: {getattr(arguments, name)}, {least} or more is needed")
    _require_place(arguments.json)
    given = [name for name in WAYS if getattr(arguments, name) is not None]
    if len(given) != 1:
        told = "nothing to measure" if not given else f"--{' and --'.join(given)} given"
        known = ", ".join(f"--{name}" for name in WAYS)
        raise ValueError(f"{arguments.command}: {told}, one of {known} is needed")
    if given == ["suite"]:
        for name in IN_SUITES:
            if getattr(arguments, name, None) is not None:
                option = name.replace("_", "-")
                raise ValueError(f"{arguments.command}: --{option} is said in a suite's own file")
    if (arguments.data is None) == (given == ["task"]):
        told = "goes with --task only" if arguments.data else "is missing, files are needed"
        raise ValueError(f"{arguments.command}: --data {told}")
    name = arguments.task or given[0]
    for option, measures in GOES_WITH.items():
        if getattr(arguments, option, None) is not None and name not in measures:
            raise ValueError(
                f"{arguments.command}: --{option.replace('_', '-')} goes with "
                f"{' or '.join(measures)} only"
            )


def _require_place(target: str | None) -> None:
    """Before anything is measured that could not be written then."""
    if target not in (None, "-") and not Path(target).parent.is_dir():
        raise FileNotFoundError(f"json: {Path(target).parent} is no folder, one is needed")


def measure_of(arguments: argparse.Namespace) -> tuple[Measure, list[str]]:
    """What is measured, and the files it is measured on."""
    from minillm.tasks.suite import make

    kind = "perplexity" if arguments.perplexity is not None else arguments.task
    given = {name: getattr(arguments, name) for name in OWN if kind in GOES_WITH[name]}
    options = {name: value for name, value in given.items() if value is not None}
    measure = make(kind, **options)
    if arguments.candidates is not None:
        from minillm.tasks.evaluation import OfVectors

        pairs = read(arguments, measure, arguments.candidates)
        measure = OfVectors(arguments.max_length, [pair.second for pair in pairs])
    return measure, arguments.perplexity or arguments.data


def load(measure: Any, path: str, adapter: str | None) -> Any:
    """The model in the form that the measure asks."""
    if measure.model != "decoder":
        if adapter is not None:
            raise ValueError(f"adapter: {measure.name} is of {measure.model}s, leave it out")
        return measure.load(path)
    from minillm.cli import adapted
    from minillm.generation.scoring import require_decoder
    from minillm.tasks.evaluation import Decoder

    found = Decoder(*adapted.load(path, adapter))
    require_decoder(found.model, "eval")
    measure.require(found)
    return found


def examples_of(arguments: argparse.Namespace, measure: Measure, path: str) -> list[Any]:
    """The examples of a file, or the last of them."""
    found, last = read(arguments, measure, path), arguments.last
    if last is not None and not 1 <= last <= len(found):
        raise ValueError(f"last: {last}, 1 to {len(found)} (the examples of {path}) are needed")
    return found if last is None else found[-last:]


def policy(arguments: argparse.Namespace) -> str:
    """What happens at a bad row."""
    return arguments.on_bad or "stop"


def read(arguments: argparse.Namespace, measure: Measure, path: str) -> list[Any]:
    """All examples of a file; what is to be said about them is said."""
    from minillm.data.tables import columns_of

    found, notices = measure.read(path, columns_of(arguments.columns), policy(arguments))
    note(notices)
    return found


def evaluate(measure: Measure, model: Any, examples: list[Any], path: str) -> Evaluated:
    """The figures of the model in `path`, with a meter of what takes long."""
    from minillm.cli.damage import named
    from minillm.cli.meter import meter

    with named("eval", path):
        return measure.evaluate(model, examples, meter)


def note(notices: list[str]) -> None:
    for notice in notices:
        tell(f"minillm: note: {notice}")


def write_json(arguments: argparse.Namespace, found: Mapping[str, Any]) -> bool:
    """Print or write the figures as asked; whether a table is to follow."""
    import json

    if arguments.json is None:
        return True
    if arguments.json == "-":
        print(json.dumps(found))
        return False
    from minillm.formats.files import atomic_write_text

    atomic_write_text(Path(arguments.json), json.dumps(found, indent=1) + "\n")
    return True

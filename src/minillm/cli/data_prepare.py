"""Clean, deduplicate, filter, split and encode texts: a folder to train from."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minillm.cli.main import OK, one_line, tell
from minillm.cli.meter import meter
from minillm.cli.reading_flags import add_reading, reader_of
from minillm.data.preparation.cleaning import FORMS
from minillm.data.preparation.options import DEDUP, Options
from minillm.words import meant

if TYPE_CHECKING:
    from minillm.data import Prepared
    from minillm.data.preparation.job import Group, Learn
    from minillm.data.sources import Source

TRAINED = ("byte", "char", "bpe")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Options()
    add_reading(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="the folder to make, or go on")
    parser.add_argument(
        "--tokenizer",
        metavar="KIND|PATH",
        help=f"{', '.join(TRAINED)} to train one, or the folder "
        "or file of one (by the size of the text)",
    )
    parser.add_argument("--vocab-size", type=int, metavar="N", help="of a tokenizer to train")
    parser.add_argument(
        "--normalize",
        choices=FORMS,
        default=defaults.normalize,
        metavar="|".join(FORMS),
        help=f"form of Unicode ({defaults.normalize})",
    )
    parser.add_argument(
        "--drop-boilerplate",
        action="store_true",
        help="leave out lines about web pages: cookies, menus, rights",
    )
    _add_filters(parser, defaults)
    parser.add_argument("--mix", metavar="TOML", help="sources with weights, instead of files")
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=defaults.val_fraction,
        metavar="F",
        help=f"share of the text kept for validation ({defaults.val_fraction})",
    )
    parser.add_argument(
        "--shard-tokens",
        type=int,
        default=defaults.shard_tokens,
        metavar="N",
        help=f"tokens in a file ({defaults.shard_tokens:,})",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one for each core)")


def _add_filters(parser: argparse.ArgumentParser, defaults: Options) -> None:
    parser.add_argument(
        "--dedup",
        choices=DEDUP,
        default=defaults.dedup,
        metavar="|".join(DEDUP),
        help="keep the first of equal, or also of nearly equal documents (none)",
    )
    parser.add_argument(
        "--near",
        type=float,
        default=defaults.near,
        metavar="S",
        help=f"similarity that makes two documents nearly equal ({defaults.near})",
    )
    parser.add_argument(
        "--min-quality",
        type=float,
        default=defaults.min_quality,
        metavar="Q",
        help="least share of the ten rules that a document keeps, 0 to 1 (0)",
    )
    parser.add_argument(
        "--scrub-pii",
        action="store_true",
        help="put <EMAIL> and so on for addresses, cards, keys ...",
    )


def run(arguments: argparse.Namespace) -> int:
    from minillm.data.preparation.job import Preparation
    from minillm.training.interrupt import terminate_as_interrupt

    workers = os.cpu_count() or 1 if arguments.workers is None else arguments.workers
    if workers < 1:
        raise ValueError(f"workers: {workers}, 1 or more is needed")
    if not arguments.out:
        raise ValueError("out: an empty name given, a path is needed")
    names = (
        "normalize",
        "drop_boilerplate",
        "scrub_pii",
        "dedup",
        "near",
        "min_quality",
        "val_fraction",
        "shard_tokens",
    )
    options = Options(**{name: getattr(arguments, name) for name in names})
    reader = reader_of(arguments)
    learn, vocabulary = _vocabulary(arguments)
    out = Path(arguments.out)
    job = Preparation(
        _groups(arguments, reader), reader, out, options, learn, vocabulary, workers, meter
    )
    try:
        with terminate_as_interrupt():
            prepared = job.run()
    except KeyboardInterrupt:
        tell(f"\nstopped; what was done is kept in {out}, the same command goes on")
        raise
    except OSError as error:
        if not error.strerror or not out.is_dir():  # a file to read, told in full; nothing was done
            raise
        raise RuntimeError(
            f"{one_line(error, 'prepare')}; what was done is kept in {out}, the same command "
            "goes on"
        ) from error
    _say(prepared)
    return OK


def _say(prepared: Prepared) -> None:
    from minillm.data.preparation.summary import lines_for_people, mixture_lines

    for line in lines_for_people(prepared.content):
        tell(line)
    for line in prepared.dataset(prepared.tokenizer, verify=False).facts.lines_for_people():
        tell(line)
    for line in mixture_lines(prepared.content["mixture"]):
        tell(line)
    folder = shlex.quote(str(prepared.folder))
    tell(f"done: {folder} holds the data; train on it:")
    tell(f"  minillm train {folder}")


def _groups(arguments: argparse.Namespace, reader: Any) -> list[Group]:
    from minillm.data.preparation.job import Group
    from minillm.data.preparation.mixture import read_mixture
    from minillm.data.sources import JSON_LINES, find

    if arguments.mix is None:
        if not arguments.files:
            raise ValueError("prepare: no file given, at least 1 is needed (or - for stdin)")
        found = find(arguments.files).files
        return [Group("", reader.recognise(found))]
    if arguments.files:
        raise ValueError("mix: files given beside it, it names them all; leave them out")
    groups: list[Group] = []
    seen: dict[Path, set[tuple[str, str] | None]] = {}
    for part in read_mixture(arguments.mix):
        files = [replace(file, where=part.where) for file in find(part.paths).files]
        for file in files:
            _require_apart(file, seen.setdefault(file.path.resolve(), set()))
        groups.append(Group(part.name, files, part.weight))
    settled = reader.recognise([file for group in groups for file in group.files])
    for file in settled:
        if file.where is not None and file.kind != JSON_LINES:
            raise ValueError(f"mix: {file.name} is {file.kind}, JSON lines are needed for where")
    found = iter(settled)
    return [Group(g.name, list(itertools.islice(found, len(g.files))), g.weight) for g in groups]


def _require_apart(file: Source, others: set[tuple[str, str] | None]) -> None:
    """ValueError unless no line of a file is in two sources; `others` are its earlier parts."""
    fields = {other and other[0] for other in others}
    if file.where in others or fields - {file.where and file.where[0]}:
        raise ValueError(f"mix: {file.name} is in two sources, one is needed")
    others.add(file.where)


def _vocabulary(arguments: argparse.Namespace) -> tuple[Learn, Any]:
    """What makes the tokenizer, and what tells it from others."""
    from minillm import tokenizers
    from minillm.training import plan
    from minillm.training.preflight import learn_tokenizer
    from minillm.training.settings import Settings

    kind, size = arguments.tokenizer, arguments.vocab_size
    if kind is not None and kind not in TRAINED:
        if size is not None:
            raise ValueError(
                "vocab-size: a tokenizer that is there has its own; leave one of them out"
            )
        if not Path(kind).exists():
            raise ValueError(f"tokenizer: {kind!r}{meant(kind, [*TRAINED, 'the path of one'])}")
        tokenizer = tokenizers.load(kind)
        return lambda text: tokenizer, tokenizer.fingerprint
    settings = Settings(tokenizer=kind, vocab_size=size)

    def learn(text: Any) -> Any:
        chosen = plan.choose_tokenizer(settings, text.facts)
        text = replace(text, whole=chosen.tokenizer == "char")
        return learn_tokenizer(text, chosen, text.facts, tell)

    return learn, [kind, size]

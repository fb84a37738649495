"""Let a model do its job: classify, tag, answer, embed, recommend or translate."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from minillm.cli.machine_flags import add_machine, settle
from minillm.cli.main import OK, tell
from minillm.training.console import Console, shorten, visible

if TYPE_CHECKING:
    from minillm.tasks.heads import Ready

DECODERS = ("recommend", "summarize", "translate")
NAMES = ("classify", "tag", "qa", "embed", *DECODERS, "chat")
ONLY = {  # options that some tasks have
    "top": ("classify", "recommend"),
    "exclude": ("recommend",),
    "beams": ("translate",),
    "instruction": ("summarize",),
    "max_tokens": ("summarize",),
    "adapter": ("summarize",),
}
TOPS = {"classify": 1, "recommend": 10}  # shown where nothing is asked
WIDTH = 60  # characters of a text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=NAMES, metavar="|".join(NAMES), help="what to do")
    parser.add_argument("model", metavar="PATH", help="folder of a model made for the task")
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="*",
        help="texts; for qa the question, then the text; for recommend items with spaces between; "
        "for summarize files, - for stdin",
    )
    parser.add_argument(
        "--file",
        metavar="F",
        help="also each line of this file, - for stdin; for qa all of it is the text",
    )
    parser.add_argument(
        "--top",
        type=int,
        metavar="N",
        help="classify: labels shown of each text (1); recommend: items (10)",
    )
    parser.add_argument(
        "--exclude",
        metavar="ITEMS",
        help="recommend: none of these items; seen: none of those given",
    )
    parser.add_argument(
        "--beams", type=int, metavar="N", help="translate: texts followed side by side (1)"
    )
    add = parser.add_argument
    add("--instruction", metavar="TEXT", help="summarize: what is asked before each text")
    add("--max-tokens", type=int, metavar="N", help="summarize: most tokens of a summary (64)")
    add("--adapter", metavar="DIR", help="summarize: LoRA adapter used beside the model")
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print an object for each input")


def run(arguments: argparse.Namespace) -> int:

    settle(arguments)
    for name, tasks in ONLY.items():
        value, option = getattr(arguments, name), name.replace("_", "-")
        if value is not None and arguments.task not in tasks:
            raise ValueError(f"{arguments.task}: --{option} goes with {' or '.join(tasks)} only")
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{option}: {value}, 1 or more is needed")
    if arguments.task == "chat":
        return chat(arguments)
    if arguments.task == "embed":
        from minillm.cli import embed

        arguments.texts = arguments.inputs
        return embed.run(arguments)
    inputs = texts_of(arguments)
    console = Console(sys.stdout)
    for found, line in answers(arguments, inputs):
        text = json.dumps(found, ensure_ascii=False) if arguments.json else line
        console.write((visible(text) if console.isatty() else text) + "\n")
    if console.full is not None:
        raise console.full
    return OK


def chat(arguments: argparse.Namespace) -> int:
    """`minillm chat` as it is without options."""
    from minillm.cli import chat as command

    if arguments.inputs or arguments.file is not None or arguments.json:
        raise ValueError("chat: takes a model alone here; minillm chat has options")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(["--", arguments.model]))


def texts_of(arguments: argparse.Namespace) -> list[str]:
    """The inputs, and those of the file; ValueError for none, or a blank one."""
    from minillm.cli.embed import read_lines, read_text

    name, inputs = arguments.task, list(arguments.inputs)
    if name == "summarize":
        inputs = [read_text(path, name) for path in inputs]
    if arguments.file is not None:
        if name == "qa":
            inputs.append(read_text(arguments.file, name))
        else:
            inputs += read_lines(arguments.file, name)
    if name == "qa" and len(inputs) != 2:
        raise ValueError(
            f"qa: {len(inputs)} inputs given, a question and a text are needed: minillm task qa "
            "PATH QUESTION TEXT, or --file F for the text"
        )
    if not inputs:
        raise ValueError(f"{name}: no text given, at least 1 is needed")
    for place, text in enumerate(inputs, 1):
        if not text.strip():
            raise ValueError(f"{name}: input {place} is blank, a text is needed")
    return inputs


Told = Iterator[tuple[dict[str, Any], str]]


def answers(arguments: argparse.Namespace, inputs: list[str]) -> Told:
    """What is found for each input, as an object and as a line."""
    top = arguments.top or TOPS.get(arguments.task, 1)
    if arguments.task in DECODERS or (arguments.task == "qa" and is_decoder(arguments.model)):
        from minillm.cli import task_decoders

        return task_decoders.answers(arguments, inputs, top)
    from minillm.tasks import heads
    from minillm.tasks.kinds import TASKS

    work = {"classify": classified, "tag": tagged, "qa": answered}[arguments.task]
    return work(heads.load(TASKS[arguments.task], arguments.model), inputs, top)


def is_decoder(path: str) -> bool:
    from minillm.models.opening import find, open_config

    return bool(open_config(find(path))[1].kind == "decoder")


def predicted(ready: Ready, inputs: Sequence[Any]) -> list[Any]:
    predictions, notices = ready.predict(inputs)
    for notice in notices:
        tell(f"minillm: note: {ready.task.name}: {notice}")
    return predictions


def classified(ready: Ready, texts: Sequence[str], top: int) -> Told:
    for text, found in zip(texts, predicted(ready, texts), strict=True):
        ranked = sorted(found.probabilities.items(), key=lambda entry: -entry[1])
        shown = "  ".join(f"{label} {chance:.1%}" for label, chance in ranked[:top])
        content = {"text": text, "label": found.label, "probabilities": found.probabilities}
        yield content, f"{shown}  {shorten(' '.join(text.split()), WIDTH)}"


def tagged(ready: Ready, texts: Sequence[str], top: int) -> Told:
    """An entity a line, under its text; a text's words are what stands between spaces and signs."""
    from minillm.tasks.metrics import entities
    from minillm.tasks.tagging import spans_of, tags_of

    spans = [spans_of(text) for text in texts]
    words = [[text[a:b] for a, b in own] for text, own in zip(texts, spans, strict=True)]
    for text, own, given, prediction in zip(
        texts, spans, words, predicted(ready, words), strict=True
    ):
        tags = tags_of(prediction, len(given))
        found = [
            {
                "type": kind,
                "text": text[own[a][0] : own[b][1]],
                "start": own[a][0],
                "end": own[b][1],
            }
            for kind, a, b in sorted(entities(tags), key=lambda entity: entity[1:])
        ]
        lines = [shorten(" ".join(text.split()), WIDTH)]
        lines += [f"  {one['type']}: {one['text']}" for one in found] or ["  nothing"]
        yield {"text": text, "words": given, "tags": tags, "entities": found}, "\n".join(lines)


def answered(ready: Ready, inputs: Sequence[str], top: int) -> Told:
    from minillm.tasks.answering import answer_of

    question, context = inputs
    answer = answer_of(context, predicted(ready, [(question, context)])[0])
    yield (
        {"question": question, "answer": answer.text} | answer._asdict(),
        f"{' '.join(answer.text.split())}  ({answer.probability:.1%}, characters {answer.start:,} "
        f"to {answer.end:,})",
    )

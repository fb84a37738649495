"""What decoders do under `minillm task`: recommend what comes next, summarise, translate."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from minillm.cli.main import tell
from minillm.quantities import counted
from minillm.training.console import shorten

WIDTH = 60  # characters of a text
SHOWN = 5  # items
ANSWER_TOKENS = 64

Told = Iterator[tuple[dict[str, Any], str]]


def answers(arguments: argparse.Namespace, inputs: Sequence[str], top: int) -> Told:
    """What is found for each input, as an object and as a line."""
    match arguments.task:
        case "recommend":
            return recommended(arguments.model, inputs, top, arguments.exclude)
        case "qa":
            return answered(arguments.model, *inputs)
        case "summarize":
            return summarized(arguments, inputs)
    return translated(arguments.model, inputs, arguments.beams or 1)


def recommended(path: str, inputs: Sequence[str], top: int, exclude: str | None) -> Told:
    """A ranking for each history."""
    from minillm.models import folder
    from minillm.tasks.recommendation import Recommender

    recommender = Recommender(*folder.load(path))
    for text in inputs:
        history = text.split()
        strange = [item for item in history if item not in recommender.ids]
        if len(strange) == len(history):
            raise ValueError(
                f"recommend: the model knows none of {text[:WIDTH]!r}, at least 1 item of its "
                f"{len(recommender.items):,}, such as {recommender.items[0]}, is needed"
            )
        if strange:
            named = ", ".join(strange[:SHOWN]) + ", ..." * (len(strange) > SHOWN)
            tell(f"minillm: note: recommend: left out what the model does not know: {named}")
        if len(history) - len(strange) > recommender.context:
            tell(f"minillm: note: recommend: the last {recommender.context} items are read")
        excluded = set(history if exclude == "seen" else (exclude or "").split())
        found = recommender.recommend(history, top, excluded)
        content = [{"item": item, "probability": chance} for item, chance in found]
        line = "  ".join(f"{item} {chance:.1%}" for item, chance in found)
        yield {"history": history, "items": content}, line


def summarized(arguments: argparse.Namespace, texts: Sequence[str]) -> Told:
    """A summary of each text, written one after the other."""
    from minillm.cli import adapted
    from minillm.tasks.summaries import Summaries

    model, tokenizer = adapted.load(arguments.model, arguments.adapter)
    asker = Summaries(arguments.instruction, arguments.max_tokens).asker(model, tokenizer)
    for text in texts:
        before = asker.cut
        [summary] = asker.answers([text])
        if asker.cut > before:
            begins = shorten(" ".join(text.split()), WIDTH)
            tell(f"minillm: note: summarize: cut to the context: {begins}")
        yield {"summary": summary, "cut": asker.cut > before}, " ".join(summary.split())


def answered(path: str, question: str, text: str) -> Told:
    """What a model that follows instructions answers to a question about a text."""
    from minillm.models import folder
    from minillm.tasks.asking import Asker

    model, tokenizer = folder.load(path)
    asked = f"Answer this question from the text, in as few words as possible: {question}"
    asker = Asker("qa", model, tokenizer, asked, ANSWER_TOKENS)
    [answer] = asker.answers([text])
    if asker.cut:
        tell("minillm: note: qa: the end of the text is cut to the context")
    yield {"question": question, "answer": answer, "cut": asker.cut > 0}, " ".join(answer.split())


def translated(path: str, texts: Sequence[str], beams: int) -> Told:
    from minillm.cli.damage import named
    from minillm.cli.meter import meter
    from minillm.tasks.translation.decoding import open_translator

    translator = open_translator(path)
    with named("translate", path), meter("texts", len(texts)) as progress:
        found = translator(texts, beams, progress)
    cut = sum(not one.whole for one in found)
    if cut:
        tell(
            f"minillm: note: translate: {cut} of {counted(len(texts), 'translation')} did not end "
            "by themselves"
        )
    for text, one in zip(texts, found, strict=True):
        yield {"text": text, "translation": one.text, "whole": one.whole}, one.text

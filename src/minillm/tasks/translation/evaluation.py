"""How good translations are, beside what can be had without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minillm.quantities import counted
from minillm.tasks.evaluation import Evaluated, Measure, Meter, unseen
from minillm.tasks.examples import Read
from minillm.tasks.metrics import Metric
from minillm.tasks.overlap import are_chinese, bleu, chrf
from minillm.tasks.translation import baselines, pairs
from minillm.tasks.translation.decoding import Translator, open_translator
from minillm.tasks.translation.pairs import Pair


class Translation(Measure):
    """chrF and BLEU of greedy translations by an encoder-decoder."""

    name, model, unit = "translate", "encoder-decoder", "sentence"
    without = "the source itself, and the translation of the source most like it"

    def load(self, path: str) -> Translator:
        return open_translator(path)

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        return pairs.read(path, columns, on_bad)

    def evaluate(self, model: Any, examples: Sequence[Any], meter: Meter = unseen) -> Evaluated:
        with meter("sentences", len(examples)) as progress:
            written = model([pair.source for pair in examples], progress=progress)
        notices = []
        if are_chinese([pair.target for pair in examples]):
            notices.append("translate: the references are Chinese, BLEU counts their characters")
        cut = sum(not one.whole for one in written)
        if cut:
            told = counted(len(examples), "translation")
            notices.append(f"translate: {cut} of {told} did not end by themselves")
        return Evaluated(figures(examples, [one.text for one in written]), notices)

    def baseline(self, learnt: Sequence[Any], examples: Sequence[Any]) -> dict[str, Metric]:
        """Learnt pairs of a source that is measured do not count."""
        others = pairs.apart(learnt, examples)
        if not others:
            raise ValueError(
                f"baseline: {counted(len(learnt), 'pair')}, but the sources of all are measured; "
                "others are needed"
            )
        given = {
            "copied": baselines.copied(examples),
            "nearest": baselines.nearest(others, examples),
        }
        return {
            f"{how}_{name}": metric
            for how, texts in given.items()
            for name, metric in figures(examples, texts).items()
        }


def figures(examples: Sequence[Pair], given: Sequence[str]) -> dict[str, Metric]:
    references = [pair.target for pair in examples]
    return {"chrf": chrf(references, given), "bleu": bleu(references, given)}

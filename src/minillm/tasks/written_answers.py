"""Answers that a decoder writes, and whether they are the right ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from minillm.data.tables import Faults, Row, read_rows
from minillm.generation.conversation import turn_ends
from minillm.generation.engine import Engine
from minillm.generation.options import Options
from minillm.generation.scoring import require_decoder
from minillm.quantities import counted
from minillm.tasks.evaluation import Evaluated, Measure, Meter, unseen
from minillm.tasks.examples import Read
from minillm.tasks.metrics import mean, normalised
from minillm.tasks.templates import Template

EXPECTED = ("text", "number")
AT_ONCE = 8  # texts that are written side by side
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Expected(NamedTuple):
    """A question with its fields, and the answer in the form that is compared."""

    line: int
    fields: Mapping[str, Any]
    answer: str


class WrittenAnswers(Measure):
    """`prompt` is written with the fields of the row and continued greedily, the most probable
    token each time; with `chat` it is the message of a user, put into the model's template.

    `expect` "text" compares the first line that is not empty, normalised as in SQuAD; "number" the
    last number of what was written with that of the answer (of gsm8k behind its ####).
    """

    name = "answer"

    def __init__(
        self,
        prompt: str | None = None,
        expect: str = "text",
        max_tokens: int = 128,
        stop: Sequence[str] = (),
        chat: bool = False,
    ) -> None:
        if expect not in EXPECTED:
            raise ValueError(f"expect: {expect!r}, one of {', '.join(EXPECTED)} is needed")
        self.prompt = Template("{question}" if prompt is None else prompt)
        self.expect, self.chat = expect, chat
        self.options = Options(
            temperature=0.0, max_tokens=max_tokens, stop=tuple(stop), overflow="truncate"
        )

    def read(self, path: str, columns: Mapping[str, str], on_bad: str = "stop") -> Read:
        """Rows with an answer and the fields of the prompt."""
        faults = Faults(path, on_bad)
        wanted = ("answer", *(name for name in self.prompt.fields if name != "answer"))
        rows, notices = read_rows(path, wanted, columns, faults)
        found = [one for row in rows if (one := self._expected(row, faults)) is not None]
        if len(faults):
            notices = [*notices, str(faults)]
        if not found:
            raise ValueError(f"read: {path} has no question, at least 1 is needed")
        return Read(found, notices)

    def _expected(self, row: Row, faults: Faults) -> Expected | None:
        missing = self.prompt.missing(row.fields)
        answer = row.fields["answer"]
        text = str(answer) if isinstance(answer, int | float) else answer
        right = self.taken_from(text.rpartition("####")[2]) if isinstance(text, str) else None
        if missing:
            faults.found(row.line, "no text", f"no text in {missing!r}", "what the prompt names")
        elif not right:
            detail = f"no {self.expect} in the answer {str(answer)[:40]!r}"
            faults.found(row.line, f"no {self.expect} in the answer", detail, f"a {self.expect}")
        else:
            return Expected(row.line, row.fields, right)
        return None

    def taken_from(self, text: str) -> str | None:
        """What of a text is compared; None where there is nothing."""
        if self.expect == "number":
            found = NUMBER.findall(text)
            return None if not found else _digits(found[-1])
        lines = [line for line in text.splitlines() if line.strip()]
        return normalised(lines[0]) if lines else None

    def require(self, model: Any) -> None:
        if self.chat:
            turn = {"role": "user", "content": "a"}
            model.tokenizer.apply_chat_template([turn], add_generation_prompt=True)

    def evaluate(self, model: Any, examples: Sequence[Any], meter: Meter = unseen) -> Evaluated:
        require_decoder(model.model, "eval")
        engine = Engine(model.model, model.tokenizer, max_batch=AT_ONCE)
        options = self.options
        if self.chat:
            options = replace(options, stop_ids=tuple(sorted(turn_ends(model.tokenizer))))
        right, cut, fronts = [], 0, 0
        with meter("questions", len(examples)) as told:
            for start in range(0, len(examples), AT_ONCE):
                some = examples[start : start + AT_ONCE]
                prompts = [self._asked(model.tokenizer, one) for one in some]
                for one, written in zip(some, engine.complete(prompts, options), strict=True):
                    right.append(float(self.taken_from(written.text) == one.answer))
                    cut += written.finish_reason == "length"
                    fronts += bool(written.notices)  # of nothing else is there anything to say
                told(len(some))
        notices = [f"left out the front of {counted(fronts, 'question')}, too long"] * (fronts > 0)
        if cut:
            told_of = f"{counted(cut, 'answer')} of {len(examples):,}"
            notices.append(f"{told_of} ended at max-tokens {self.options.max_tokens}")
        return Evaluated({"exact_match": mean(right)}, notices)

    def _asked(self, tokenizer: Any, one: Expected) -> str | list[int]:
        prompt = self.prompt.filled(one.fields)
        if not self.chat:
            return prompt
        talk = [{"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(talk, add_generation_prompt=True)


def _digits(number: str) -> str:
    """A number in ASCII without commas, zeros that say nothing, and the sign of 0."""
    digits = "".join(str(int(c)) if c.isdecimal() else c for c in number.replace(",", ""))
    whole, _, part = digits.removeprefix("-").partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    found = f"{whole}.{part}" if part else whole
    return f"-{found}" if digits.startswith("-") and found != "0" else found

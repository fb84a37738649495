"""Texts put to a decoder as chat messages, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minillm.data.conversations import instructed
from minillm.generation import Engine, Options
from minillm.generation.conversation import turn_ends
from minillm.generation.scoring import require_decoder

AT_ONCE = 8  # texts that are answered side by side


class Asker:
    """A decoder that is given an instruction and a text, through the model's template.

    Answers are greedy and end by themselves or after `max_tokens`. A text that leaves no room for
    that is cut at its end; `cut` counts those. ValueError for a model without a template.
    """

    def __init__(
        self, task: str, model: Any, tokenizer: Any, instruction: str, max_tokens: int
    ) -> None:
        require_decoder(model, task)
        if tokenizer.chat_template is None:
            raise ValueError(
                f"{task}: the model has no chat template, a model that follows instructions is "
                "needed; make one with: minillm finetune BASE DATA"
            )
        if max_tokens < 1:
            raise ValueError(f"max-tokens: {max_tokens}, 1 or more is needed")
        self.task, self.tokenizer, self.instruction = task, tokenizer, instruction
        self.engine = Engine(model, tokenizer)
        ends = tuple(sorted(turn_ends(tokenizer)))
        self.options = Options.of(max_tokens=max_tokens, temperature=0.0, stop_ids=ends)
        self.room = None if model.config.context is None else model.config.context - max_tokens
        self.cut = 0

    def answers(
        self, texts: Sequence[str], told: Callable[[int], object] = lambda done: None
    ) -> list[str]:
        """One for each text; `told` hears of each stretch of them."""
        prompts = [self.prompt(text) for text in texts]
        found: list[str] = []
        for start in range(0, len(prompts), AT_ONCE):
            some = prompts[start : start + AT_ONCE]
            found += [one.text.strip() for one in self.engine.complete(some, self.options)]
            told(len(some))
        return found

    def prompt(self, text: str) -> list[int]:
        """The ids of a message, its text cut to what leaves room for the answer."""
        ids = self._ids(text)
        if self.room is None or len(ids) <= self.room:
            return ids
        self.cut += 1
        kept = self.tokenizer.encode(text)
        while kept and len(ids) > self.room:
            kept = kept[: max(0, len(kept) - (len(ids) - self.room))]
            ids = self._ids(self.tokenizer.decode(kept))
        if not kept:
            raise ValueError(
                f"{self.task}: {len(ids)} tokens of the instruction leave no room for a text and "
                f"{self.options.max_tokens} tokens of an answer, a shorter one is needed"
            )
        return ids

    def _ids(self, text: str) -> list[int]:
        message = {"role": "user", "content": instructed(self.instruction, text)}
        ids: list[int] = self.tokenizer.apply_chat_template([message], add_generation_prompt=True)
        return ids

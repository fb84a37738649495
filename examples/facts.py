"""Measure what a model trained on tiny.txt has learnt: `python examples/facts.py RUN_FOLDER`.

Cloze accuracy: the model continues a sentence that breaks off just before a fact, after an opening
that no story combines with that sentence. Consistency: in stories the model writes itself, every
statement of a fact is found with the stories' own sentences and compared with the cast.
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from string import Formatter
from typing import NamedTuple

from phrases import FACTS, FILLINGS, LEADS, MORALS, PAIRS, PLOTS
from stories import CAST, fill, held_out, last_name, pick, shuffled, with_pronoun

PROMPTS_PER_FACT = 3
STORY_LENGTH = 600
SENTENCE_END = re.compile(r'(?<=[.!?]) |(?<=[.!?]") ')

Complete = Callable[[str, int], str]


class Prompt(NamedTuple):
    """A text that breaks off before a fact: its continuation, and what others would have there."""

    text: str
    right: str
    wrongs: tuple[str, ...]
    fact: str


class Score(NamedTuple):
    """Share of prompts continued with the right value, and with another character's value."""

    right: float
    mixed_up: float


def prompts() -> list[Prompt]:
    """Cloze prompts for every fact of every character, none of which occurs in the stories."""
    rng = random.Random(0)
    found = []
    for character in CAST.values():
        for fact, sentences in FACTS.items():
            for j in shuffled(rng, range(len(sentences)))[:PROMPTS_PER_FACT]:
                lead = pick(
                    rng,
                    [
                        text
                        for i, text in enumerate(LEADS)
                        if held_out(i, j) and f".{fact}}}" not in text
                    ],
                )
                fillings = {slot: pick(rng, texts) for slot, texts in FILLINGS.items()}
                before = sentences[j].partition("{hero." + fact + "}")[0].rstrip()
                text = fill(f"{lead} {before}", fillings, hero=character)
                right = getattr(character, fact)
                others = tuple(" " + getattr(c, fact) for c in CAST.values() if c != character)
                found.append(Prompt(text, " " + right, others, fact))
    return found


def begins_with(text: str, value: str) -> bool:
    """Whether the text begins with the value and not with a longer word."""
    return re.match(re.escape(value) + r"(?!\w)", text) is not None


def cloze(complete: Complete, tasks: list[Prompt]) -> dict[str, Score]:
    """Score the greedy completions of the prompts, for each kind of fact."""
    right, mixed_up = Counter[str](), Counter[str]()
    for task in tasks:
        longest = max(map(len, (task.right, *task.wrongs)))
        text = complete(task.text, longest + 1)
        right[task.fact] += begins_with(text, task.right)
        mixed_up[task.fact] += any(begins_with(text, wrong) for wrong in task.wrongs)
    totals = Counter(task.fact for task in tasks)
    return {fact: Score(right[fact] / n, mixed_up[fact] / n) for fact, n in totals.items()}


def chance(tasks: list[Prompt]) -> dict[str, float]:
    """Share of prompts that the best constant answer gets right, for each kind of fact."""
    answers: dict[str, Counter[str]] = {}
    for task in tasks:
        answers.setdefault(task.fact, Counter())[task.right] += 1
    return {fact: max(found.values()) / found.total() for fact, found in answers.items()}


class Statement(NamedTuple):
    """A fact about a character that a sentence of a text states, rightly or not."""

    name: str
    fact: str
    sentence: str
    right: bool


class Check(NamedTuple):
    """What check_story found in a text."""

    statements: tuple[Statement, ...]
    right: int
    wrong: int


def every_sentence() -> Iterator[str]:
    """Every sentence with slots that a story can contain."""
    facts = (*sum(FACTS.values(), ()), *PAIRS)
    steps = [step for plot in PLOTS for step in plot if not isinstance(step, str)]
    for text in (*LEADS, *facts, *map(with_pronoun, facts), *sum(steps, ()), *MORALS):
        yield from SENTENCE_END.split(text)


def any_of(texts: Iterable[str]) -> str:
    """A regular expression for any of the texts."""
    return "(?:" + "|".join(map(re.escape, sorted(set(texts)))) + ")"


def slot_pattern(slot: str) -> str:
    """A regular expression for whatever the slot can hold."""
    _, _, field = slot.partition(".")
    if slot in FILLINGS:
        return any_of(FILLINGS[slot])
    texts = {str(getattr(c, field or "name")) for c in CAST.values()}
    return any_of(texts | {text.capitalize() for text in texts})


def statement_patterns(sentence: str) -> Iterator[tuple[str, re.Pattern[str]]]:
    """(fact, expression) for every fact in a sentence; the expression matches up to the fact.

    Group `value` starts where the fact starts; group `name` is its owner and is missing where the
    sentence begins with a pronoun. ValueError: the sentence does not say whose fact it is.
    """
    parts = [(text, slot) for text, slot, _, _ in Formatter().parse(sentence)]
    slots = [slot for _, slot in parts]
    for at, slot in enumerate(slots):
        role, _, fact = (slot or "").partition(".")
        if fact not in FACTS:
            continue
        pronoun = slots[0] in (f"{role}.she", f"{role}.his") and not parts[0][0]
        if role not in slots and not pronoun:
            raise ValueError(f"statement_patterns: {sentence!r} states {slot}, name its {role} too")
        owner = slots.index(role) if role in slots else -1
        expression = ""
        for i, (text, other) in enumerate(parts[: max(at, owner) + 1]):
            expression += re.escape(text)
            if i == at:
                expression += r"(?P<value>[\w' ]+?)" if at < owner else "(?P<value>)"
            elif i == owner:
                expression += f"(?P<name>{slot_pattern(role)})"
            else:
                expression += slot_pattern(other or "")
        yield fact, re.compile(expression)


@cache
def all_patterns() -> dict[str, tuple[str, re.Pattern[str]]]:
    """The different statement patterns of all sentences."""
    found = {}
    for sentence in every_sentence():
        for fact, pattern in statement_patterns(sentence):
            found[fact + pattern.pattern] = fact, pattern
    return found


def check_story(text: str) -> Check:
    """Compare every fact stated in the text with the cast; a pronoun means the last name before.

    A fact that the end of the text cuts short while it is still right is not counted.
    """
    statements: dict[tuple[str, str, int], Statement] = {}
    before = ""
    for sentence in SENTENCE_END.split(text):
        for fact, pattern in all_patterns().values():
            match = pattern.match(sentence)
            name = match and (match.groupdict().get("name") or last_name(before))
            if not match or not name:
                continue
            right, start = getattr(CAST[name], fact), match.start("value")
            if right.startswith(sentence[start:]) and right != sentence[start:]:
                continue
            statements[name, fact, start + len(before)] = Statement(
                name, fact, sentence, begins_with(sentence[start:], right)
            )
        before += sentence + " "
    right_count = sum(s.right for s in statements.values())
    return Check(tuple(statements.values()), right_count, len(statements) - right_count)


def free_stories(complete: Complete, count: int) -> list[str]:
    """Stories the model writes after an opening that tells no fact, up to the first line end."""
    rng = random.Random(0)
    heroes = list(CAST.values())
    leads = [lead for lead in LEADS if ".species}" not in lead]
    texts = []
    for i in range(count):
        fillings = {slot: pick(rng, options) for slot, options in FILLINGS.items()}
        start = fill(pick(rng, leads), fillings, hero=heroes[i % len(heroes)])
        texts.append(start + complete(start, STORY_LENGTH).partition("\n")[0])
    return texts


def table(
    scores: dict[str, Score], chances: dict[str, float], untrained: dict[str, Score] | None
) -> str:
    """The cloze scores in per cent, a row for each kind of fact and their mean."""
    columns = {
        "trained": {fact: score.right for fact, score in scores.items()},
        "mixed up": {fact: score.mixed_up for fact, score in scores.items()},
        "chance": chances,
    }
    if untrained is not None:
        columns["untrained"] = {fact: score.right for fact, score in untrained.items()}
    rows = [f"{'fact':<10}" + "".join(f"{head:>11}" for head in columns)]
    for fact in scores:
        rows.append(f"{fact:<10}" + "".join(f"{c[fact]:>11.1%}" for c in columns.values()))
    means = [sum(c.values()) / len(c) for c in columns.values()]
    rows.append(f"{'all':<10}" + "".join(f"{mean:>11.1%}" for mean in means))
    return "\n".join(rows)


def consistency(texts: list[str]) -> str:
    """How many statements of facts in the texts are right; a repeated sentence counts once."""
    found = [statement for text in texts for statement in set(check_story(text).statements)]
    right = sum(statement.right for statement in found)
    share = f" ({right / len(found):.1%})" if found else ""
    return f"{len(texts)} free stories: {len(found)} statements of facts, {right} right{share}"


def completion_by(folder: str, untrained: bool = False) -> Complete:
    """Greedy completion by the model in a run folder, or by its shape with fresh weights."""
    import minillm

    model, tokenizer = minillm.load(folder, untrained=untrained)

    def complete(prompt: str, max_chars: int) -> str:
        text = ""
        for piece in minillm.stream(
            model, tokenizer, prompt, max_tokens=max_chars, temperature=0.0, overflow="slide"
        ):
            text += piece
            if len(text) >= max_chars or "\n" in text:
                break
        return text[:max_chars]

    return complete


def main() -> None:
    """Print the cloze table and the consistency of free stories for one run folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", help="run folder of a model trained on tiny.txt")
    parser.add_argument("--stories", type=int, default=12, help="how many stories it shall write")
    parser.add_argument("--untrained", action="store_true", help="also score untrained weights")
    options = parser.parse_args()
    tasks = prompts()
    try:
        complete = completion_by(options.folder)
        fresh = completion_by(options.folder, untrained=True) if options.untrained else None
    except (OSError, ValueError) as error:
        parser.exit(2, f"facts: {error}\n")
    untrained = cloze(fresh, tasks) if fresh else None
    print(table(cloze(complete, tasks), chance(tasks), untrained))
    print(consistency(free_stories(complete, options.stories)))


if __name__ == "__main__":
    main()

"""Measure whether a model has learnt the form of regulated verse.

    python examples/verse.py POEMS --jsonl verses.jsonl    # documents to train on
    python examples/verse.py POEMS [--model RUN]           # the form of what is written

In POEMS a poem is a line of title and author and then lines of verse, a blank line ends it; a
document is its verse. It keeps the form where its phrases, parted by punctuation, are 4 or 8 and
all have 5, or all have 7 characters. The poems themselves are measured, those that a bigram of
their characters writes, and those of the model.
"""

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MARKS = re.compile("[，。？！；：、]")
LINES, LENGTHS = (4, 8), (5, 7)
BORDER = "\0"  # before and after a poem
LONGEST = 120  # characters of a poem that is written


class Form(NamedTuple):
    """Of poems: the share that keeps the form, that of phrases which stand in the poems learnt, and
    of the others the share with 5 or 7 characters."""

    kept: float
    copied: float
    new: float


def poems_of(text: str) -> list[str]:
    """The verse of each poem, without its title."""
    return [poem.strip().partition("\n")[2] for poem in text.split("\n\n") if poem.strip()]


def phrases_of(poem: str) -> list[str]:
    """What stands between marks and line ends."""
    return [phrase for line in poem.split("\n") for phrase in MARKS.split(line) if phrase.strip()]


def keeps_form(poem: str) -> bool:
    phrases = phrases_of(poem)
    lengths = {len(phrase) for phrase in phrases}
    return len(phrases) in LINES and len(lengths) == 1 and lengths <= set(LENGTHS)


def measure(poems: Sequence[str], known: Iterable[str]) -> Form:
    """Of some poems; `known` are the phrases that are not new."""
    found, seen = [phrase for poem in poems for phrase in phrases_of(poem)], set(known)
    new = [phrase for phrase in found if phrase not in seen]
    right = sum(len(phrase) in LENGTHS for phrase in new)
    kept = sum(map(keeps_form, poems))
    copied = len(found) - len(new)
    return Form(kept / len(poems), copied / max(1, len(found)), right / max(1, len(new)))


def bigram_poems(poems: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Poems in which each character follows the one before it as often as in those given."""
    followers: dict[str, Counter[str]] = defaultdict(Counter)
    for poem in poems:
        for one, other in zip(BORDER + poem, poem + BORDER, strict=True):
            followers[one][other] += 1
    draw = random.Random(seed)
    written = []
    for _ in range(count):
        poem, next_ones = "", followers[BORDER]
        while len(poem) < LONGEST:
            [character] = draw.choices(list(next_ones), list(next_ones.values()))
            if character == BORDER:
                break
            poem += character
            next_ones = followers[character]
        written.append(poem)
    return written


def model_poems(folder: str, count: int, seed: int = 0, **options: Any) -> list[str]:
    """Poems that a trained model writes, one for each seed from `seed` on."""
    from minillm.generation import generate
    from minillm.models.folder import load

    model, tokenizer = load(folder)
    most = min(LONGEST, model.config.context - 1)
    return [
        generate(model, tokenizer, "", max_tokens=most, seed=seed + place, **options)
        for place in range(count)
    ]


def told(name: str, form: Form, count: int) -> str:
    return (
        f"{name:<8} {form.kept:6.1%} of {count} poems keep the form; {form.copied:6.1%} of phrases "
        f"are copied, {form.new:6.1%} of the others have 5 or 7 characters"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("poems", help="the text that the model learnt")
    parser.add_argument("--model", help="folder of a model trained on it")
    parser.add_argument("--jsonl", help="write the poems as documents into this file")
    parser.add_argument("--count", type=int, default=200, help="poems to write (200)")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--show", type=int, default=2, help="poems to print (2)")
    asked = parser.parse_args(arguments)
    poems = poems_of(Path(asked.poems).read_text(encoding="utf-8"))
    if asked.jsonl is not None:
        rows = (json.dumps({"text": poem}, ensure_ascii=False) + "\n" for poem in poems)
        Path(asked.jsonl).write_text("".join(rows), encoding="utf-8")
    known = [phrase for poem in poems for phrase in phrases_of(poem)]
    print(told("the text", measure(poems, []), len(poems)))
    print(told("bigram", measure(bigram_poems(poems, asked.count), known), asked.count))
    if asked.model is not None:
        written = model_poems(asked.model, asked.count, temperature=asked.temperature)
        print(told("model", measure(written, known), asked.count))
        for poem in written[: asked.show]:
            print(f"\n{poem.strip()}")


if __name__ == "__main__":
    main()

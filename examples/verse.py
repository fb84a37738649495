"""Measure whether a model has learnt the form of regulated verse.

`python examples/verse.py POEMS` looks at the poems and at what a bigram of their characters
writes, `python examples/verse.py POEMS --model RUN` also at what a model trained on them writes.

A poem is a line of title and author and then lines of verse, a blank line ends it. It keeps the
form where its phrases, parted by punctuation, are 4 or 8 and all have 5, or all have 7 characters.
"""

import argparse
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MARKS = re.compile("[，。？！；：、]")
LINES, LENGTHS = (4, 8), (5, 7)
END = "\n\n"
LONGEST = 120  # characters of a poem that is written


class Form(NamedTuple):
    """Of poems: the share that keeps the form, of phrases of 5 or 7, and of phrases not new."""

    kept: float
    phrases: float
    copied: float


def poems_of(text: str) -> list[str]:
    return [poem.strip() for poem in text.split(END) if poem.strip()]


def phrases_of(poem: str) -> list[str]:
    """What stands between marks and line ends, but for the first line."""
    verse = poem.partition("\n")[2]
    return [phrase for line in verse.split("\n") for phrase in MARKS.split(line) if phrase.strip()]


def keeps_form(poem: str) -> bool:
    phrases = phrases_of(poem)
    lengths = {len(phrase) for phrase in phrases}
    return len(phrases) in LINES and len(lengths) == 1 and lengths <= set(LENGTHS)


def measure(poems: Sequence[str], known: Iterable[str]) -> Form:
    """Of some poems; `known` are the phrases that are not new."""
    found = [phrase for poem in poems for phrase in phrases_of(poem)]
    right = sum(len(phrase) in LENGTHS for phrase in found)
    seen = set(known)
    copied = sum(phrase in seen for phrase in found)
    kept = sum(map(keeps_form, poems))
    whole = max(1, len(found))
    return Form(kept / len(poems), right / whole, copied / whole)


def bigram_poems(text: str, count: int, seed: int = 0) -> list[str]:
    """Poems in which each character follows the one before it as often as in the text."""
    followers: dict[str, Counter[str]] = defaultdict(Counter)
    poems = poems_of(text)
    for poem in poems:
        for one, other in zip("\n" + poem, poem + "\0", strict=True):
            followers[one][other] += 1
    draw = random.Random(seed)
    first = Counter(poem[0] for poem in poems)
    written = []
    for _ in range(count):
        poem, next_ones = "", first
        while len(poem) < LONGEST:
            [character] = draw.choices(list(next_ones), list(next_ones.values()))
            if character == "\0":
                break
            poem += character
            next_ones = followers[character]
        written.append(poem)
    return written


def model_poems(folder: str, count: int, seed: int = 0, **options: Any) -> list[str]:
    """Poems that a trained model writes after a blank line."""
    from minillm.generation import generate
    from minillm.models.folder import load

    model, tokenizer = load(folder)
    most = min(LONGEST, model.config.context - len(END))
    return [
        generate(model, tokenizer, "", max_tokens=most, seed=seed + place, **options)
        for place in range(count)
    ]


def told(name: str, form: Form, count: int) -> str:
    return (
        f"{name:<16} {form.kept:6.1%} of {count} poems keep the form, {form.phrases:6.1%} of "
        f"phrases have 5 or 7 characters, {form.copied:6.1%} stand in the poems"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("poems", help="the text that the model learnt")
    parser.add_argument("--model", help="folder of a model trained on it")
    parser.add_argument("--count", type=int, default=200, help="poems to write (200)")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--show", type=int, default=2, help="poems to print (2)")
    asked = parser.parse_args(arguments)
    text = Path(asked.poems).read_text(encoding="utf-8")
    poems = poems_of(text)
    known = [phrase for poem in poems for phrase in phrases_of(poem)]
    print(told("the text", measure(poems, []), len(poems)))
    print(told("bigram", measure(bigram_poems(text, asked.count), known), asked.count))
    if asked.model is not None:
        written = model_poems(asked.model, asked.count, temperature=asked.temperature)
        print(told("model", measure(written, known), asked.count))
        for poem in written[: asked.show]:
            print(f"\n{poem.strip()}")


if __name__ == "__main__":
    main()

"""Write stories about twelve friends who never change: `python examples/stories.py > tiny.txt`.

The facts of CAST hold in every story, so a language model trained on the text can be asked for
them (see facts.py). The same seed gives the same bytes under every Python.
"""

import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from phrases import FACTS, FILLINGS, LEADS, MORALS, PAIRS, PLOTS

SEED = 1
STORIES = 660
WORDS = range(60, 151)
# Facts to begin a story with; what the plots tell seldom stands here more often.
INTRODUCTION = (*["species", "fear", "hobby", "wears"] * 2, "species", "home", "food")


@dataclass(frozen=True)
class Character:
    """One member of the cast; the keys of FACTS are the facts the stories state."""

    name: str
    she: str
    species: str
    home: str
    wears: str
    food: str
    friend: str
    fear: str
    event: str
    hobby: str

    def __str__(self) -> str:
        return self.name

    @property
    def him(self) -> str:
        return "her" if self.she == "she" else "him"

    @property
    def his(self) -> str:
        return "her" if self.she == "she" else "his"


CAST = {
    c.name: c
    for c in (
        Character(
            "Mira",
            "she",
            "fox",
            "old mill",
            "red scarf",
            "plum pie",
            "Rufus",
            "thunder",
            "rolled over the hills",
            "painting pictures",
        ),
        Character(
            "Rufus",
            "he",
            "bear",
            "mossy cave",
            "blue cap",
            "honey cakes",
            "Mira",
            "bees",
            "came out of a tree",
            "carving spoons",
        ),
        Character(
            "Zoe",
            "she",
            "hare",
            "round burrow",
            "yellow ribbon",
            "carrot soup",
            "Gus",
            "the dark",
            "came down like a curtain",
            "growing roses",
        ),
        Character(
            "Gus",
            "he",
            "badger",
            "log cabin",
            "grey vest",
            "mushroom stew",
            "Zoe",
            "spiders",
            "crept across the path",
            "making candles",
        ),
        Character(
            "Dotty",
            "she",
            "duck",
            "reed hut",
            "pink bonnet",
            "barley bread",
            "Kurt",
            "deep water",
            "lay before them",
            "collecting shells",
        ),
        Character(
            "Kurt",
            "he",
            "frog",
            "glass house",
            "purple belt",
            "lemon jelly",
            "Dotty",
            "storks",
            "landed in the field",
            "singing songs",
        ),
        Character(
            "Vera",
            "she",
            "goat",
            "windy barn",
            "silver bell",
            "oat biscuits",
            "Jasper",
            "steep cliffs",
            "rose before them",
            "flying kites",
        ),
        Character(
            "Jasper",
            "he",
            "crow",
            "hollow oak",
            "black hat",
            "cherry tarts",
            "Vera",
            "scarecrows",
            "waved their arms",
            "telling jokes",
        ),
        Character(
            "Uma",
            "she",
            "hedgehog",
            "garden shed",
            "brown apron",
            "baked pears",
            "Carlo",
            "strong wind",
            "bent the trees",
            "knitting socks",
        ),
        Character(
            "Carlo",
            "he",
            "sailor",
            "tall lighthouse",
            "golden ring",
            "rice pudding",
            "Uma",
            "thick fog",
            "came up from the sea",
            "counting stars",
        ),
        Character(
            "Wanda",
            "she",
            "shepherd",
            "stone cottage",
            "white shawl",
            "hot pancakes",
            "Pip",
            "wolves",
            "howled far away",
            "playing the flute",
        ),
        Character(
            "Pip",
            "he",
            "mouse",
            "clock tower",
            "green coat",
            "soft cheese",
            "Wanda",
            "owls",
            "called in the dusk",
            "mending clocks",
        ),
    )
}

NAME = re.compile(r"\b(?:" + "|".join(CAST) + r")\b")
T = TypeVar("T")


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options; `random()` alone gives the same numbers in every Python version."""
    return options[int(rng.random() * len(options))]


def shuffled(rng: random.Random, items: Sequence[T]) -> list[T]:
    """The items in random order."""
    left = list(items)
    return [left.pop(int(rng.random() * len(left))) for _ in items]


def held_out(lead: int, fact: int) -> bool:
    """Whether no story follows LEADS[lead] with the fact sentence of this index."""
    return (lead + fact) % 4 == 0


def last_name(text: str) -> str | None:
    """The last name in the text: the one a pronoun at the start of the next sentence means."""
    names = NAME.findall(text)
    return names[-1] if names else None


def with_pronoun(sentence: str) -> str:
    """The sentence with a pronoun for a name it begins with, unchanged where that reads badly."""
    if sentence.startswith("{hero}'s "):
        return sentence.replace("{hero}'s", "{hero.his}", 1)
    if sentence.startswith("{hero} ") and not sentence.startswith("{hero} the "):
        return sentence.replace("{hero}", "{hero.she}", 1)
    return sentence


def fill(sentence: str, fillings: Mapping[str, str], **roles: Character) -> str:
    """The sentence with its slots filled and a capital first letter."""
    text = sentence.format(**fillings, **roles)
    return text[0].upper() + text[1:]


class Story:
    """One story in the making: its roles, its fillings, and the sentences so far."""

    def __init__(self, rng: random.Random, hero: Character) -> None:
        self.rng = rng
        friend = CAST[hero.friend]
        other = pick(rng, [c for c in CAST.values() if c not in (hero, friend)])
        self.roles = {"hero": hero, "friend": friend, "other": other}
        self.fillings = {slot: pick(rng, texts) for slot, texts in FILLINGS.items()}
        self.told: set[tuple[str, str]] = set()
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        """Add a sentence whose slots are the roles of this story."""
        self.sentences.append(fill(sentence, self.fillings, **self.roles))

    def tell(self, role: str, sentence: str) -> None:
        """Add a sentence of FACTS or PAIRS about the character in this role."""
        character = self.roles[role]
        before = self.sentences[-1]
        if last_name(before) == character.name and self.rng.random() < 0.5:
            sentence = with_pronoun(sentence)
        self.sentences.append(fill(sentence, self.fillings, hero=character))
        self.told.update((role, field) for field in FACTS if f".{field}}}" in sentence)

    def tell_one(self, role: str, field: str) -> None:
        """State one fact unless the story has stated it already."""
        if (role, field) not in self.told:
            self.tell(role, pick(self.rng, FACTS[field]))

    def tell_some(self, role: str, count: int) -> None:
        """State some facts, one or two in a sentence, that the story has not stated yet."""
        every = [*PAIRS, *(sentence for sentences in FACTS.values() for sentence in sentences)]
        for _ in range(count):
            told = [f".{field}}}" for owner, field in self.told if owner == role]
            fresh = [s for s in every if not any(slot in s for slot in told)]
            field = pick(self.rng, [f for f in INTRODUCTION if (role, f) not in self.told])
            self.tell(role, pick(self.rng, [s for s in fresh if f".{field}}}" in s]))

    def open(self) -> None:
        """The first sentence, and a fact of the hero in a wording not held out for it."""
        lead = int(self.rng.random() * len(LEADS))
        self.say(LEADS[lead])
        if ".species}" in LEADS[lead]:
            self.told.add(("hero", "species"))
        field = pick(self.rng, [f for f in INTRODUCTION if ("hero", f) not in self.told])
        self.tell(
            "hero", pick(self.rng, [s for i, s in enumerate(FACTS[field]) if not held_out(lead, i)])
        )

    def act(self, plot: Sequence[str | Sequence[str]]) -> None:
        """Play the plot: a step is a fact to tell ("hero.fear") or a choice of sentences."""
        for step in plot:
            if isinstance(step, str):
                self.tell_one(*step.split("."))
            else:
                self.say(pick(self.rng, step))


def story(rng: random.Random, hero: Character, plot: Sequence[str | Sequence[str]]) -> str:
    """One story, in one line."""
    tale = Story(rng, hero)
    tale.open()
    tale.tell_some("hero", 1 + int(rng.random() * 2))
    tale.tell_one("hero", "friend")
    tale.told.add(("friend", "friend"))
    tale.tell_some("friend", 1)
    tale.act(plot)
    tale.say(pick(rng, MORALS))
    return " ".join(tale.sentences)


def stories(count: int = STORIES, seed: int = SEED) -> list[str]:
    """That many stories, all different; every hero meets every plot equally often."""
    rng = random.Random(seed)
    turns = [(hero, plot) for hero in CAST.values() for plot in PLOTS]
    written: dict[str, None] = {}
    while len(written) < count:
        for hero, plot in shuffled(rng, turns):
            text = story(rng, hero, plot)
            if len(text.split()) in WORDS and len(written) < count:
                written[text] = None
    return list(written)


def main() -> None:
    """Write the stories to standard output, a blank line between two of them."""
    sys.stdout.buffer.write("\n\n".join(stories()).encode("ascii") + b"\n")


if __name__ == "__main__":
    main()

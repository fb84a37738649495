"""Words that people write, and the ones they meant."""

from __future__ import annotations

from collections.abc import Iterable

CLOSE = 0.65  # share of the letters that two words have in common, in their order


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like `word` or begins with it; None where none is close.

    Dashes in front do not count: two options are not alike for having them.
    """
    from difflib import get_close_matches

    bare = {one.lstrip("-"): one for one in known}
    word = word.lstrip("-")
    found = get_close_matches(word, bare, 1, CLOSE)
    if not found and len(word) > 2:
        found = [one for one in bare if one.startswith(word)]
    return bare[found[0]] if found else None


def meant(word: str, known: Iterable[str], others: str | None = None) -> str:
    """The end of an error about an unknown word: the one that was meant, or all (or `others`)."""
    names = list(known)
    near = nearest(word, names)
    if near is not None:
        return f"; did you mean {near}?"
    return others if others is not None else f", one of {', '.join(names)} is needed"

"""How often each source is read in one pass over a mixture."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..lines import weights


@dataclass(frozen=True)
class Ingredient:
    """A source of a mixture: what its files are and its share of the training tokens, relative.

    Of the files it takes the JSON lines `where` a field has a value, or everything.
    """

    name: str
    paths: tuple[str, ...]
    weight: float
    where: tuple[str, str] | None = None


def read_mixture(path: str | os.PathLike[str]) -> list[Ingredient]:
    """The sources of a TOML file: tables [name] with `paths`, relative to it, and `weight`; and
    `where`, which names a field of JSON lines and its value.

    Raises ValueError in one line for anything else.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"mix: {path} is not valid TOML ({error})") from error
    found = [_ingredient(path, name, table) for name, table in content.items()]
    if len(found) < 2:
        raise ValueError(f"mix: {path} has {len(found)} sources, at least 2 are needed")
    return found


def _ingredient(path: Path, name: str, table: Any) -> Ingredient:
    if not isinstance(table, dict):
        raise ValueError(f"mix: {path}: {name} is no table, [{name}] with paths is needed")
    unknown = sorted(set(table) - {"paths", "weight", "where"})
    if unknown:
        raise ValueError(
            f"mix: {path}: [{name}] has an unknown key {unknown[0]!r}, paths, weight and where are "
            "known"
        )
    paths: Any = table.get("paths")
    weight: Any = table.get("weight")
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
        raise ValueError(f"mix: {path}: paths of [{name}] is {paths!r}, file names are needed")
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight <= 0:
        raise ValueError(
            f"mix: {path}: weight of [{name}] is {weight!r}, a number above 0 is needed"
        )
    where = table.get("where", {"": ""})
    pairs = list(where.items()) if isinstance(where, dict) else []
    if len(pairs) != 1 or not isinstance(pairs[0][1], str):
        raise ValueError(
            f"mix: {path}: where of [{name}] is {where!r}, one field and a text such as "
            '{ topic = "news" } are needed'
        )
    field, value = pairs[0]
    files = tuple(str(path.parent / p) for p in paths)
    return Ingredient(name, files, float(weight), (field, value) if field else None)


def passes(tokens: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """How often each source is read so that the tokens are in these proportions.

    All together they are as many as there are: what is read more often makes up for what is read
    less. Raises ValueError for a source without tokens.
    """
    wanted = np.array(shares) / sum(shares) * tokens.sum()
    if not tokens.all():
        raise ValueError(
            f"mix: source {int(np.flatnonzero(tokens == 0)[0]) + 1} has no tokens for training, "
            "every source needs some"
        )
    return wanted / tokens


def included(hashes: np.ndarray, times: np.ndarray, turn: int) -> np.ndarray:
    """Which documents are read in the turn (from 0) of a pass, given how often each is.

    The whole part of a number is for every document of a source, the rest for a share of them that
    their hashes draw.
    """
    drawn = (weights(hashes) >> np.uint64(11)) * 2.0**-53
    return np.where(times >= turn + 1, True, drawn < times - turn)

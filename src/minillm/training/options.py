"""Options of a run by one name: command line, TOML file and run folder alike.

A class of settings is a dataclass whose fields are made by `option`; `command` names the command.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any

from minillm.words import meant, nearest


def option(default: Any, help: str, kind: type = int, **limits: Any) -> Any:
    """A field: its default, what it says, its kind, and `low`, `high`, `above`, `choices`,
    `duration`."""
    return field(default=default, metadata={"help": help, "kind": kind, **limits})


def flag(name: str) -> str:
    """The name users meet: `vocab-size` for `vocab_size`."""
    return name.replace("_", "-")


def fields_of(settings: type) -> list[Field[Any]]:
    return list(fields(settings))


def check(option: Field[Any], value: Any) -> None:
    """ValueError or TypeError in one line unless `value` fits the option."""
    if value is None:
        return
    name, limits = flag(option.name), option.metadata
    kind = limits["kind"]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise TypeError(f"{name}: {value!r}, {_WORDS[kind]} is needed")
    if "choices" in limits and value not in limits["choices"]:
        near = nearest(value, limits["choices"])
        hint = f"; did you mean {near}?" if near else ""
        known = ", ".join(limits["choices"])
        raise ValueError(f"{name}: {value!r}, one of {known} is needed{hint}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name}: {value}, a finite number is needed")
    low, high = limits.get("low"), limits.get("high")
    if low is not None and (value < low or (limits.get("above") and value == low)):
        needed = f"more than {low}" if limits.get("above") else f"{low} or more"
        raise ValueError(f"{name}: {value}, {needed} is needed")
    if high is not None and value > high:
        raise ValueError(f"{name}: {value}, {high} or less is needed")
    if limits.get("duration") and value <= 0:
        raise ValueError(f"{name}: {value} seconds, more than 0 is needed")


def require_use(settings: Any, names: tuple[str, ...], by: str, values: tuple[str, ...]) -> None:
    """ValueError for options that say nothing unless the option `by` has one of `values`."""
    if getattr(settings, by) in values:
        return
    for one in fields(settings):
        if one.name in names and getattr(settings, one.name) != one.default:
            raise ValueError(
                f"{settings.command}: --{flag(one.name)} goes with --{flag(by)} "
                f"{' or '.join(values)} only"
            )


_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """90, 90s, 10m or 1.5h in seconds; ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"time: {text!r}, a duration like 90s, 10m or 1.5h is needed")
    return float(match[1]) * _UNITS[match[2]]


def bytes_of(text: str) -> int:
    """800M, 1G or 1.5G in bytes; ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([MG])", text.strip().upper())
    found = int(float(match[1]) * {"M": 1e6, "G": 1e9}[match[2]]) if match else 0
    if not 0 < found < 1e15:
        raise ValueError(f"max-memory: {text!r}, a size like 800M or 1.5G is needed")
    return found


def read_toml(
    path: str | os.PathLike[str], settings: Any, extra: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Options of a TOML file by attribute name; one-line ValueError for unknown keys, bad values.

    `extra` names keys that are known besides those of `settings`; hidden ones have no key.
    """
    content = toml_of(path)
    known = {
        flag(option.name): option
        for option in fields_of(settings)
        if not option.metadata.get("hidden")
    }
    values = {}
    for key, value in content.items():
        if key not in known and key not in extra:
            rest = meant(key, [*known, *extra], f"; minillm {settings.command} --help lists all")
            raise ValueError(f"{path}: unknown key {key!r}{rest}")
        if key in known:
            try:
                value = _option_value(known[key], value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: {error}") from error
        values[key.replace("-", "_")] = value
    return values


def toml_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a TOML file, whatever its keys; ValueError for what is none."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML ({error})") from error


def _option_value(option: Field[Any], value: Any) -> Any:
    """A value as TOML gives it, as the command line would give it."""
    if option.metadata.get("duration") and isinstance(value, str):
        value = seconds(value)
    check(option, value)
    return float(value) if option.metadata["kind"] is float else value

"""Rotary embeddings in config.json: transformers 4 and 5 spell them differently."""

from __future__ import annotations

from typing import Any

from minillm.nn.rotary import ORIGINAL

SPELLINGS = ("rope_parameters", "rope_scaling")
WITH_ORIGINAL = ("llama3", "yarn", "longrope")  # may have it beside the parameters, and then first


def rope_from_hf(content: dict[str, Any], family: str) -> dict[str, Any]:
    """`rope_parameters` as transformers 5 writes them, from either spelling, without empty ones.

    transformers 4 has rope_theta beside `rope_scaling`, and calls rope_type "type" in old files.
    ValueError for two spellings at once, and for parameters that are no object.
    """
    given = [name for name in SPELLINGS if content.get(name)]
    if len(given) == 2 and content[given[0]] != content[given[1]]:
        raise ValueError(
            f"{family}: rope_parameters and rope_scaling differ, one of them is needed"
        )
    settings = content[given[0]] if given else {}
    if not isinstance(settings, dict):
        raise ValueError(f"{family}: {given[0]} is {settings!r}, an object is needed")
    for name, value in settings.items():
        if isinstance(value, dict):
            raise ValueError(f"{family}: {given[0]} of its own for {name} is not implemented")
    rope: dict[str, Any] = {"rope_theta": 10000.0, "rope_type": settings.get("type") or "default"}
    beside = {name: content.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    for source in (beside, settings):
        rope |= {n: value for n, value in source.items() if value is not None and n != "type"}
    if rope["rope_type"] in WITH_ORIGINAL and content.get(ORIGINAL) is not None:
        rope[ORIGINAL] = content[ORIGINAL]
    if rope.get("partial_rotary_factor") == 1.0:
        del rope["partial_rotary_factor"]
    return rope


def rope_to_hf(rope: dict[str, Any]) -> dict[str, Any]:
    """The keys rope_theta and rope_scaling, which both versions read."""
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    return {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": None if scaling == {"rope_type": "default"} else scaling,
    }

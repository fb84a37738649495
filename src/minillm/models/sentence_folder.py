"""What sentence-transformers keeps beside an encoder: how hidden states become vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minillm.formats import hf

POOLING = {  # sentence-transformers' switches, in the order in which it joins the vectors
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
}
MODES = tuple(POOLING.values())
NAMED = "default"  # the prompt that goes before every text


def settings(folder: Path) -> dict[str, Any]:
    """What the files of sentence-transformers in `folder` say, as options of Embedder."""
    pooling, normalize = folder / "1_Pooling" / "config.json", True
    modules = folder / "modules.json"
    if modules.is_file():
        place, normalize = modules_of(modules)
        pooling = folder / place / "config.json"
    found: dict[str, Any] = {"normalize": normalize}
    prompt = default_prompt(folder / "config_sentence_transformers.json")
    if modules.is_file() or pooling.is_file():
        content = hf.read_json(pooling)
        found["modes"] = modes_of(content, pooling)
        if prompt and content.get("include_prompt", True) is not True:
            raise ValueError(f"embed: include_prompt=false in {pooling} is not implemented")
    for path in sorted(folder.glob("sentence_*_config.json")):
        content = hf.read_json(path)
        length = content.get("max_seq_length")
        if length is not None and (type(length) is not int or length < 1):
            raise ValueError(f"embed: max_seq_length={length!r} in {path}, an int from 1 is needed")
        found |= {"max_length": length, "lowercase": content.get("do_lower_case") is True}
    return found | {"prompt": prompt}


def write_settings(
    folder: Path,
    width: int,
    modes: Sequence[str],
    normalize: bool,
    max_length: int,
    lowercase: bool,
    prompt: str,
) -> None:
    """Write the options of an Embedder of a model of `width` where `settings` reads them."""
    kinds = ["Transformer", "Pooling", "Normalize"][: 3 if normalize else 2]
    places = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": places[place],
            "type": f"sentence_transformers.models.{kind}",
        }
        for place, kind in enumerate(kinds)
    ]
    for place in places[1 : len(kinds)]:
        (folder / place).mkdir(exist_ok=True)
    switches = {key: mode in modes for key, mode in POOLING.items()}
    hf.write_json(
        folder / places[1] / "config.json", {"word_embedding_dimension": width} | switches
    )
    lengths = {"max_seq_length": max_length, "do_lower_case": lowercase}
    hf.write_json(folder / "sentence_bert_config.json", lengths)
    prompts = {"prompts": {NAMED: prompt}, "default_prompt_name": NAMED} if prompt else {}
    hf.write_json(folder / "config_sentence_transformers.json", prompts)
    hf.write_json(folder / "modules.json", modules)


def modules_of(path: Path) -> tuple[str, bool]:
    """Where the pooling lies that modules.json names, and whether it normalises."""
    modules = hf.read_json(path, list)
    if not all(isinstance(module, dict) for module in modules):
        raise ValueError(f"embed: {path} holds no list of modules")
    names = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    wanted = ["Transformer", "Pooling", "Normalize"]
    if names not in (wanted[:2], wanted):
        raise ValueError(
            f"embed: modules {', '.join(names)} in {path}, "
            "Transformer, Pooling and perhaps Normalize are needed"
        )
    place = modules[1].get("path")
    if not isinstance(place, str) or not re.fullmatch(r"[\w-]+", place):
        raise ValueError(f"embed: {path} names the folder {place!r}, one beside it is needed")
    return place, len(names) == 3


def modes_of(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    """The kinds of pooling switched on, by their switches or by the newer pooling_mode."""
    named = content.get("pooling_mode")
    if named is not None:
        modes = [named] if isinstance(named, str) else list(named)
        modes = [str(mode).removesuffix("_tokens") for mode in modes]
    else:
        switches = {"pooling_mode_mean_tokens": True}  # unless told otherwise
        switches |= {key: on for key, on in content.items() if key.startswith("pooling_mode_")}
        modes = [POOLING.get(key, key) for key, on in switches.items() if on is True]
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise ValueError(
            f"embed: pooling {', '.join(unknown) or 'nothing'} in {path}, "
            f"one of {', '.join(MODES)} is needed"
        )
    return tuple(mode for mode in MODES if mode in modes)


def default_prompt(path: Path) -> str:
    """The text that goes before every text, "" if there is none."""
    if not path.is_file():
        return ""
    content = hf.read_json(path)
    name = content.get("default_prompt_name")
    if name is None:
        return ""
    prompt = (content.get("prompts") or {}).get(name)
    if not isinstance(prompt, str):
        raise ValueError(f"embed: {path} names the prompt {name!r}, a text is needed in prompts")
    return prompt

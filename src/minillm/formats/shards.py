"""The weights of a folder: model.safetensors, or shards that an index names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minillm.arrays import Array
from minillm.formats import safetensors
from minillm.formats.files import atomic_write_text

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
LARGEST_SHARD = 5_000_000_000  # bytes, as transformers has long had it
LARGEST_INDEX = 1 << 24  # bytes
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SHOWN = 6  # problems in one error


def paths_of(folder: Path) -> list[Path]:
    """The file or files that hold the weights of a folder.

    Raises FileNotFoundError where there are none or shards are missing, ValueError for an index
    that is damaged, or where there are only pickles.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        return [folder / name for name in dict.fromkeys(_weight_map(folder).values())]
    refuse_pickles(sorted(folder.iterdir()))
    raise FileNotFoundError(f"load: no {SINGLE} in {folder}, the weights are needed")


def refuse_pickles(paths: list[Path]) -> None:
    """ValueError, which says how to convert it, if there is a pickle among `paths`."""
    found = next((path for path in paths if path.suffix in PICKLES and path.is_file()), None)
    if found is not None:
        raise ValueError(
            f"load: {found} may be a pickle, which can run any code and is never opened, "
            f"{SINGLE} is needed; convert it once, where it is trusted and PyTorch is installed: "
            'python -c "from transformers import AutoModel as M; '
            f"M.from_pretrained('{found.parent}').save_pretrained('{found.parent}')\""
        )


def read(folder: Path, *, verify: bool = True) -> tuple[dict[str, Any], dict[str, str], list[Path]]:
    """Arrays by name, as safetensors.read gives them, metadata of the first file, and the files.

    Files with a digest are verified if `verify`. ValueError lists every tensor that the index and
    its shards do not agree on; else errors as in `paths_of` and safetensors.read.
    """
    paths = paths_of(folder)
    arrays: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    where: dict[str, str] = {}
    problems = []
    for path in paths:
        _, notes = safetensors.header(path)
        opened = safetensors.verify if verify and safetensors.DIGEST in notes else safetensors.read
        found, notes = opened(path)
        if _of_a_save(metadata) != _of_a_save(notes) and metadata:
            problems.append(f"{path.name} is of another save than {paths[0].name}")
        metadata = metadata or notes
        twice = [name for name in found if name in where]
        problems += [f"{name} is in {where[name]} and in {path.name}" for name in twice]
        where |= dict.fromkeys(found, path.name)
        arrays |= found
    if paths[0].name != SINGLE:
        weight_map = _weight_map(folder)
        problems += [
            f"{name} is not in {file}" for name, file in weight_map.items() if name not in where
        ]
        problems += [
            f"{name} is in {file}, the index says {weight_map.get(name, 'nothing of it')}"
            for name, file in where.items()
            if weight_map.get(name) != file
        ]
    if problems:
        raise ValueError(f"load: {folder / INDEX} and its shards do not agree: {shown(problems)}")
    return arrays, metadata, paths


def _of_a_save(metadata: Mapping[str, str]) -> dict[str, str] | None:
    """What the metadata of all shards of one save by `write` have in common, None of others."""
    if safetensors.DIGEST not in metadata:
        return None
    return {name: text for name, text in metadata.items() if name != safetensors.DIGEST}


def shown(problems: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(problems) - SHOWN
    return "; ".join(problems[:SHOWN]) + (f"; {more} more" if more > 0 else "")


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor to shard, every shard a plain name of a file that is there."""
    path = folder / INDEX
    if path.stat().st_size > LARGEST_INDEX:
        raise ValueError(f"load: {path} has more than {LARGEST_INDEX} bytes, an index is needed")
    try:
        content = json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=safetensors.distinct
        )
        weight_map = content["weight_map"]
        names = list(dict.fromkeys(weight_map.values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"load: {path} is damaged ({error})") from error
    for name in names:
        plain = isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name)
        if not plain or name.startswith("."):
            raise ValueError(
                f"load: {path} names the shard {str(name)[:80]!r}, the plain name of a "
                ".safetensors file in the same folder is needed"
            )
    if not names:
        raise ValueError(f"load: {path} is damaged (it names no tensor)")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"load: {len(missing)} of {len(names)} shards are missing in {folder}, "
            f"all that {INDEX} names are needed: {shown(missing)}"
        )
    return weight_map


def write(
    folder: Path,
    arrays: Mapping[str, Array],
    metadata: Mapping[str, str],
    dtype: str | None = None,
    shard_bytes: int = LARGEST_SHARD,
) -> None:
    """Write arrays as one file, or as shards of at most `shard_bytes` (or one array) and an index.

    What an earlier write of another division left in the folder is removed. Errors as in
    safetensors.write.
    """
    sizes = {
        name: safetensors.size_of(folder, name, array, dtype) for name, array in arrays.items()
    }
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    names = [SINGLE]
    if len(groups) > 1:
        names = [
            f"model-{n:05d}-of-{len(groups):05d}.safetensors" for n in range(1, len(groups) + 1)
        ]
    for file, group in zip(names, groups):
        safetensors.write(folder / file, {name: arrays[name] for name in group}, metadata, dtype)
    if len(groups) > 1:
        weight_map = {name: file for file, group in zip(names, groups) for name in group}
        content = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        atomic_write_text(folder / INDEX, json.dumps(content, indent=2, sort_keys=True) + "\n")
        names.append(INDEX)
    _remove_others(folder, names)


def _remove_others(folder: Path, names: list[str]) -> None:
    for name in os.listdir(folder):
        ours = name in (SINGLE, INDEX) or SHARD.fullmatch(name)
        if ours and name not in names:
            (folder / name).unlink()

"""Finding a model by its path or name, and checking what its files say before anything is built."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from minillm import device_memory, devices, kernels
from minillm.formats import hf, shards
from minillm.formats.deferred import kind_of
from minillm.models import FAMILIES, Family
from minillm.quantities import count, counted, size

GGUF_MAGIC = b"GGUF"
BYTES = 4  # of a parameter in memory
VOCABULARIES = "vocabularies"  # in the metadata of a CTranslate2 folder
LARGEST = 1 << 62  # of the numbers in config.json
LONGEST = 500  # characters of an error
TOO_MANY = 100  # times the parameters in the file: not a difference to be listed


class Model(NamedTuple):
    """A model that is found but not built; arrays are mapped, or decoded when asked for.

    path        the folder or the .gguf file
    arrays      weights by the names of the family's state_dict
    metadata    what the file says of itself: strings (safetensors) or anything (GGUF, CTranslate2)
    files       those that hold the weights
    dtypes      how many numbers they store in which dtype, the commonest first
    """

    path: Path
    family: Family
    config: Any
    arrays: dict[str, Any]
    metadata: dict[str, Any]
    files: list[Path]
    dtypes: dict[str, int]

    @property
    def is_gguf(self) -> bool:
        return self.path.is_file()

    def running_bytes(self, device: str = devices.CPU) -> int:
        """Of all weights while the model runs: float32, but for blocks that stay as they are.

        On the processor blocks need the extension; without it they are widened.
        """
        stay = kernels.multiplies_blocks(device)
        return sum(
            array.nbytes if stay and getattr(array, "runs_as_blocks", False) else BYTES * array.size
            for array in self.arrays.values()
        )

    @property
    def format(self) -> str:
        """ "gguf", "ctranslate2" or "safetensors"."""
        if self.is_gguf:
            return "gguf"
        return "ctranslate2" if VOCABULARIES in self.metadata else "safetensors"


def find(path: str | os.PathLike[str], *, pull: bool = False) -> Path:
    """The folder, or the .gguf file, that `path` or the name of a pulled model stands for.

    With `pull` a name that is not there is fetched from the hub. FileNotFoundError or ValueError
    in one line, with what to do, if there is no such thing or it holds no model.
    """
    if not os.fspath(path):
        raise ValueError("load: the path is empty, a folder, a .gguf file or a name is needed")
    place = Path(path)
    if place.is_dir():
        return _in_folder(place)
    if place.exists():
        return _file(place)
    from minillm.formats import hub

    name = os.fspath(path)
    found = hub.cached(name)
    if found is None and pull and hub.is_name(name):
        found = hub.pull(name)
    if found is not None:
        return _in_folder(found)
    hint = f"; fetch it with: minillm pull {name}" if hub.is_name(name) else ""
    raise FileNotFoundError(
        f"load: {name} is not a folder, nor a .gguf file, nor the name of a model in "
        f"{hub.cache_folder()}{hint}"
    )


def _in_folder(folder: Path) -> Path:
    if (folder / "config.json").is_file() or is_ctranslate2(folder):
        return folder
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return ggufs[0]
    if ggufs:
        names = ", ".join(path.name for path in ggufs)
        raise ValueError(f"load: {folder} holds {names}, the path of one of them is needed")
    raise FileNotFoundError(
        f"load: {folder} is no model folder (no config.json), a folder in Hugging Face layout is "
        "needed"
    )


def is_ctranslate2(path: Path) -> bool:
    """Whether `path` is a folder that holds a CTranslate2 model."""
    if not path.is_dir():
        return False
    from minillm.formats import ctranslate2

    return ctranslate2.is_folder(path)


def _file(path: Path) -> Path:
    shards.refuse_pickles([path])
    if not path.is_file():
        raise ValueError(f"load: {path} is not a file, a folder or a .gguf file is needed")
    with open(path, "rb") as file:
        if file.read(4) == GGUF_MAGIC:
            return path
    held = counted(path.stat().st_size, "byte")
    beside = path.suffix in (".safetensors", ".json") and (path.parent / "config.json").is_file()
    hint = f"; give the folder: {path.parent}" if beside else ""
    raise ValueError(
        f"load: {path} ({held}) is not a folder nor a GGUF file, a folder in Hugging Face layout "
        f"or a .gguf file is needed{hint}"
    )


def configure(content: dict[str, Any], source: Path) -> tuple[Family, Any]:
    """Family and configuration for the content of a config.json; ValueError names what is wrong."""
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(
            f"load: model_type {repr(kind)[:80]} in {source} is not known, "
            f"one of {', '.join(FAMILIES)} is needed"
        )
    quantized = content.get("quantization_config")
    if quantized is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise ValueError(
            f"load: quantization_config ({method}) in {source} is not supported, "
            "weights in floating point, or a .gguf file, are needed"
        )
    return FAMILIES[kind], _configuration(FAMILIES[kind], content, source)


def _configuration(family: Family, content: dict[str, Any], source: Path) -> Any:
    """What a family makes of the content; in one short line what it cannot make sense of."""
    try:
        huge = next((name for name, value in content.items() if _is_huge(value)), None)
        if huge is not None:
            raise OverflowError(f"{huge} is beyond {LARGEST}")
        return family.config.from_hf(content)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if len(text) <= LONGEST else f"{text[:LONGEST]} ...") from error
    except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
        reason = str(error)[:LONGEST]
        raise ValueError(
            f"load: {source} holds a value of a wrong kind or size ({reason})"
        ) from error


def _is_huge(value: Any) -> bool:
    return type(value) is int and abs(value) > LARGEST


def open_config(path: Path, changes: dict[str, Any] | None = None) -> tuple[Family, Any]:
    """Family and configuration of what `find` gave; `changes` go before what config.json says."""
    if path.is_file() or is_ctranslate2(path):
        found = open_model(path, changes)
        return found.family, found.config
    source = path / "config.json"
    return configure(hf.read_json(source) | (changes or {}), source)


def open_model(path: Path, changes: dict[str, Any] | None = None, *, verify: bool = False) -> Model:
    """What `find` gave, opened: headers are read and compared with the configuration, no more.

    `changes` are as for `open_config`. With `verify`, files that have a digest are read once and
    compared with it. ValueError in one line for files that are damaged, hostile or contradict the
    configuration.
    """
    if path.is_file():
        from minillm.models.gguf_names import open_gguf

        content, arrays, metadata = open_gguf(path)
        family, config = configure(content | (changes or {}), path)
        files = [path]
    elif is_ctranslate2(path):
        from minillm.formats import ctranslate2

        content, arrays, vocabularies = ctranslate2.open(path)
        family, config = configure(content | (changes or {}), path)
        metadata, files = {VOCABULARIES: vocabularies}, [path / ctranslate2.MODEL_FILE]
    else:
        family, config = open_config(path, changes)
        arrays, metadata, files = shards.read(path, verify=verify)
    state = family.from_files(arrays, config)
    _require_agreement(config, state, files[0] if len(files) == 1 else path)
    return Model(path, family, config, state, metadata, files, _dtypes(arrays))


def _dtypes(arrays: dict[str, Any]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for array in arrays.values():
        counts[kind_of(array)] += array.size
    return dict(counts.most_common())


def _require_agreement(config: Any, state: dict[str, Any], source: Path) -> None:
    """Refuse what cannot be one model before it is built; load_state_dict goes into details."""
    held, needed = sum(array.size for array in state.values()), config.parameter_count
    if needed > TOO_MANY * held or config.n_layer > len(state):
        raise ValueError(
            f"load: the configuration describes {counted(needed, 'parameter')} in "
            f"{config.n_layer:,} layers, {source} holds {held:,} in {len(state)} tensors; they do "
            "not belong together"
        )
    problems = [
        f"{name} has dtype {array.dtype}"
        for name, array in state.items()
        if array.dtype.kind != "f"
    ]
    if problems:
        raise ValueError(
            f"load: {source}: {shards.shown(problems)}; floating-point weights are needed"
        )


def require_memory(
    config: Any, source: Path, needed: int | None = None, device: str = devices.CPU
) -> None:
    """ValueError, with the figures, for a model that the memory left cannot hold.

    It takes `needed` bytes, those of all parameters in float32 if None.
    """
    held, on_gpu = config.parameter_count, devices.number_of(device) is not None
    free = device_memory.free(device)
    wide = BYTES * held
    needed = wide if needed is None else needed
    if free is not None and needed > free:
        raise ValueError(
            f"load: {source} needs {size(needed)} of memory{f' of {device}' * on_gpu} for "
            f"{count(held)} parameters{' in float32' if needed >= wide else ''}, {size(free)} are "
            f"free; a model of up to {count(free * held // needed)} parameters fits"
        )

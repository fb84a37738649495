"""Models of the Hugging Face hub: those already in its cache, and fetching others."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from minillm.formats import shards

NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
SMALL = (".json", ".txt", ".model", ".jinja")  # configuration and tokenizers
INNER = "*_Pooling/config.json"  # of sentence encoders
OTHERS = ("*.bin.index.json", "*.msgpack.index.json", "*.h5.index.json")


def is_name(text: str) -> bool:
    """Whether `text` could be the name of a model on the hub: NAME or ORG/NAME."""
    return NAME.fullmatch(text) is not None and ".." not in text and "--" not in text


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it fetched."""
    for variable, rest in (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser() / rest
    return Path.home() / ".cache" / "huggingface" / "hub"


def cached(name: str) -> Path | None:
    """The folder of a model that was pulled before: of its main revision, else the newest."""
    if not is_name(name):
        return None
    model = cache_folder() / f"models--{name.replace('/', '--')}"
    main = model / "refs" / "main"
    commit = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    if COMMIT.fullmatch(commit) and (model / "snapshots" / commit).is_dir():
        return model / "snapshots" / commit
    snapshots = [path for path in model.glob("snapshots/*") if path.is_dir()]
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)


def wanted(name: str, files: Sequence[str], gguf: str | None = None) -> list[str]:
    """Of the files of a model those that are needed to run it.

    `gguf` names the one to take of several GGUF files. ValueError where no weights can be used.
    """
    top = [file for file in files if "/" not in file]
    small = [
        file
        for file in files
        if fnmatch.fnmatch(file, INNER)
        or (file in top and file.endswith(SMALL) and not any(map(file.endswith, OTHERS)))
    ]
    small = [file for file in small if not any(fnmatch.fnmatch(file, other) for other in OTHERS)]
    ggufs = [file for file in top if file.endswith(".gguf")]
    if gguf is not None:
        if gguf not in ggufs:
            raise ValueError(
                f"pull: {name} has no {gguf}, one of {', '.join(ggufs) or 'its files'} is needed"
            )
        return [gguf]
    if shards.SINGLE in top:
        return [file for file in small if file != shards.INDEX] + [shards.SINGLE]
    if shards.INDEX in top:
        return small + [file for file in top if shards.SHARD.fullmatch(file)]
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise ValueError(f"pull: {name} has {', '.join(ggufs)}, name one of them with --file")
    kinds = sorted({Path(file).suffix for file in top} & set(shards.PICKLES))
    has = f"only pickles ({', '.join(kinds)}), which are never opened" if kinds else "none"
    raise ValueError(f"pull: {name} has no weights in safetensors or GGUF, {has}")


def pull(name: str, *, file: str | None = None, revision: str | None = None) -> Path:
    """Fetch a model into the cache of huggingface_hub, what is there already excepted; its folder.

    Raises ValueError for what is no name or has no usable weights, RuntimeError where the extra is
    not installed, OSError where the hub does not give it, each in one line that says what to do.
    """
    if not is_name(name):
        raise ValueError(f"pull: {name!r} is no name on the hub, NAME or ORG/NAME is needed")
    try:
        import huggingface_hub
    except ImportError as error:
        raise RuntimeError(
            "pull: huggingface-hub is not installed, it is needed; "
            "install the extra hf, in the checkout: pip install '.[hf]'"
        ) from error
    try:
        siblings = huggingface_hub.HfApi().model_info(name, revision=revision).siblings or []
        files = wanted(name, [sibling.rfilename for sibling in siblings], file)
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=[glob.escape(name) for name in files]
            )
        )
    except ValueError:
        raise
    except Exception as error:  # requests' or httpx' and the hub's own, as its version has it
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OSError(
            f"pull: {name} cannot be had from {endpoint} ({reason}); check the name, the "
            "connection, HF_ENDPOINT and (for gated models) HF_TOKEN, or copy the model's folder "
            "to this machine and give its path"
        ) from error

"""A folder of prepared data: tokenizer, token shards, and what is known about both."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...formats.hf import read_json, write_json
from ...tokenizers import Tokenizer, load
from ..facts import Facts
from ..prepare import Dataset, fingerprint_of
from ..shards import TokenShards
from ..split import SplitFacts
from ..tokens import TokenFile

MANIFEST = "prepared.json"
VERSION = 1


@dataclass(frozen=True)
class Prepared:
    """`content` is that of the manifest, which is written last: a folder that has one is whole."""

    folder: Path
    content: dict[str, Any]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Prepared:
        """Read the manifest. Raises FileNotFoundError, or ValueError for a damaged one."""
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(
                f"dataset: {folder} holds no prepared data, {MANIFEST} is needed"
            )
        content = read_json(folder / MANIFEST)
        if content.get("version") != VERSION:
            raise ValueError(
                f"dataset: {folder / MANIFEST} has version {content.get('version')!r}, {VERSION} "
                "is needed; prepare the data again"
            )
        return cls(folder, content)

    @property
    def tokenizer(self) -> Tokenizer:
        return load(self.folder)

    @property
    def text(self) -> Facts:
        """Files, bytes, documents, lines, characters of the kept text, and its encoding."""
        try:
            return Facts(**self.content["text"])
        except (KeyError, TypeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ValueError:
        return ValueError(
            f"dataset: {self.folder / MANIFEST} is damaged ({error}), a file that prepare "
            "wrote is needed; prepare the data again"
        )

    def dataset(self, tokenizer: Tokenizer, verify: bool = True) -> Dataset:
        """The token shards, every id read and checked unless `verify` is False.

        Raises ValueError for damaged or missing ones and for another tokenizer.
        """
        try:
            facts = SplitFacts(**self.content["split"])
            shards = self.content["shards"]
            train = self._shards(shards["train"], verify)
            val = self._shards(shards["val"], verify) if facts.split != "none" else None
            fingerprint = self.content["fingerprint"]
        except (KeyError, TypeError) as error:
            raise self._damaged(error) from error
        if train.fingerprint != tokenizer.fingerprint:
            raise ValueError(
                f"dataset: {train.path} was made with the tokenizer {train.fingerprint[:12]}, "
                f"this one is {tokenizer.fingerprint[:12]}, the same is needed"
            )
        if fingerprint_of(train, val) != fingerprint:
            raise ValueError(
                f"dataset: {self.folder} has fingerprint {fingerprint_of(train, val)[:12]}, "
                f"{fingerprint[:12]} is needed; prepare the data again"
            )
        return Dataset(train, val, facts, fingerprint, self.folder)

    def _shards(self, names: list[str], verify: bool) -> TokenShards:
        return TokenShards([TokenFile.open(self.folder / name, verify) for name in names])


def write_manifest(
    folder: Path,
    train: list[Path],
    val: list[Path],
    facts: SplitFacts,
    content: dict[str, Any],
) -> Prepared:
    """Write what makes the folder whole; `content` tells of the text and of what was done to it."""
    opened = TokenShards([TokenFile.open(path) for path in train])
    kept = TokenShards([TokenFile.open(path) for path in val]) if val else None
    manifest = {
        "version": VERSION,
        "fingerprint": fingerprint_of(opened, kept),
        "split": asdict(facts),
        "shards": {"train": [p.name for p in train], "val": [p.name for p in val]},
        **content,
    }
    write_json(folder / MANIFEST, manifest)
    return Prepared(folder, manifest)

"""The steps of a preparation, each of which goes on where it was cut off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...formats.files import atomic_write_text, remove_leftovers
from ...formats.lock import Lock
from ...tokenizers import Tokenizer, load
from ...tokenizers.tokenizer import CONFIG_FILE
from ..corpus import Document
from ..facts import Facts
from ..reading import Reader
from ..sources import Source, size_of
from ..split import SplitFacts
from ..text import Repairs
from .begun import JOB, WORK, begun
from .encoding import Encoding, units
from .options import Options
from .parts import Cleaning, CleanPart
from .pool import in_order
from .prepared import MANIFEST, VERSION, Prepared, write_manifest
from .sections import Part, parts, sections
from .selection import KEPT, Catalogue, Selection, select
from .summary import described, write_places
from .writing import Shards, Written

Meter = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Group:
    """Files that are a source of a mixture, and its share of the training tokens."""

    name: str
    files: Sequence[Source]
    weight: float = 1.0


@dataclass(frozen=True)
class KeptText:
    """The text of a preparation that is for training, as a tokenizer learns from it.

    Where it is `whole`, with what is held out: characters that are there alone need ids too.
    """

    facts: Facts
    _texts: Callable[[bool], Iterator[str]]
    whole: bool = False

    def documents(self) -> Iterator[Document]:
        """Its documents, in order; a long one in several."""
        for text in self._texts(self.whole):
            yield Document("", partial(iter, (text,)))


Learn = Callable[[KeptText], Tokenizer]


@dataclass
class Preparation:
    """Prepares the files of `groups` in the folder `out`.

    learn     makes the tokenizer; `vocabulary` tells in JSON what it does, to know it again
    workers   processes that work at the same time; the result does not depend on it
    meter     shows progress: given a unit and a total or None, told of each piece of work
    """

    groups: Sequence[Group]
    reader: Reader
    out: Path
    options: Options
    learn: Learn
    vocabulary: Any
    workers: int
    meter: Meter

    def run(self) -> Prepared:
        """Do what is not done yet; a folder that this made whole before is left as it is.

        Raises ValueError for a folder of something else, for text that cannot be prepared and where
        nothing is left of it, RuntimeError where the text changed or a worker was killed, OSError
        as the system does. What was done is kept, but for the last of these steps.
        """
        work = self.out / WORK
        done = begun(self.out, json.loads(self._identity()))
        if done is not None:
            self._require_unchanged()
            return done
        work.mkdir(parents=True, exist_ok=True)
        with Lock(work, f"prepare: another process works in {self.out}; wait for it, or stop it"):
            for folder in (self.out, work):
                remove_leftovers(folder)
            atomic_write_text(work / JOB, self._identity())
            prepared = self._prepare(work)
        shutil.rmtree(work)
        return prepared

    def _require_unchanged(self) -> None:
        """ValueError for a file that was written after the folder was made whole."""
        made = (self.out / MANIFEST).stat().st_mtime_ns
        for source in (source for group in self.groups for source in group.files):
            if source.spool is None and source.path.stat().st_mtime_ns > made:
                raise ValueError(
                    f"prepare: {source.name} was written after {self.out} was prepared from it; "
                    f"delete {self.out}, or choose another --out"
                )

    def _identity(self) -> str:
        files = [
            [
                *(group.name, group.weight, source.name, source.path.stat().st_size),
                *(source.where or ()),
            ]
            for group in self.groups
            for source in group.files
        ]
        decoding, rows = self.reader.decoding, self.reader.rows
        content = {
            "version": VERSION,
            "files": files,
            "options": self.options.to_dict(),
            "tokenizer": self.vocabulary,
            "reading": [decoding.encoding, decoding.errors, rows.text_field, rows.on_bad],
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def _prepare(self, work: Path) -> Prepared:
        found, read = self._clean(work)
        catalogue = Catalogue(found)
        selection = select(catalogue, self.options)
        content = described(found, catalogue, selection, self.options, read)
        tokenizer = self._tokenizer(work, found, catalogue, selection, content)
        encoding = Encoding(work, work / "tokenizer", [part.path for part in found])
        encoded = self._encode(encoding, catalogue, selection)
        written = self._write(tokenizer, encoded, catalogue, selection)
        facts = self._split_facts(selection, written)
        tokenizer.save(self.out)
        write_places(self.out, found, catalogue, selection)
        content |= {"job": json.loads(self._identity()), "mixture": self._mixture(written)}
        return write_manifest(self.out, written.train, written.val, facts, content)

    def _clean(self, work: Path) -> tuple[list[CleanPart], Facts]:
        """The files of all parts, and what reading found."""
        files = [source for group in self.groups for source in group.files]
        cleaning, repairs = Cleaning(work, self.options), Repairs()
        count = 0
        with self.meter("bytes read", size_of(files)) as told:

            def missing() -> Iterator[Part]:
                nonlocal count
                for part in parts(sections(files, self.reader, repairs, told)):
                    count += 1
                    if not cleaning.has(part):
                        yield part

            for _ in in_order(cleaning, missing(), self.workers):
                pass
        facts = Facts(
            files=len(files),
            boms=repairs.boms,
            newlines=repairs.newlines,
            replacements=repairs.replacements,
            bad_rows=repairs.bad_rows,
            first_bad_row=repairs.first_bad_row,
        )
        if not count:
            raise ValueError(f"prepare: no text in {files[0].name}, at least 1 document is needed")
        return [CleanPart(cleaning.file_of(number)) for number in range(count)], facts

    def _tokenizer(
        self,
        work: Path,
        found: list[CleanPart],
        catalogue: Catalogue,
        selection: Selection,
        content: dict[str, Any],
    ) -> Tokenizer:
        folder = work / "tokenizer"
        if (folder / CONFIG_FILE).exists():  # written last
            return load(folder)
        text = content["text"]
        alphabet: set[str] = set()
        for part in found:
            alphabet.update(part.read("facts")[0]["alphabet"])
        facts = Facts(
            files=text["files"],
            bytes=text["bytes"],
            characters=text["characters"],
            documents=text["documents"],
            lines=text["lines"],
        )
        facts.character_counts.update(dict.fromkeys(alphabet, 1))

        def texts(whole: bool) -> Iterator[str]:
            chosen = selection.reasons == KEPT
            if selection.validation is not None and not whole:
                held = catalogue["document"][selection.firsts[selection.validation]]
                chosen &= ~np.isin(catalogue["document"], held)
            for part, start, end in zip(found, catalogue.starts, catalogue.starts[1:]):
                yield from part.texts(np.flatnonzero(chosen[start:end]))

        tokenizer = self.learn(KeptText(facts, texts))
        tokenizer.save(folder)
        return tokenizer

    def _encode(self, encoding: Encoding, catalogue: Catalogue, selection: Selection) -> list[Path]:
        paths = []
        total = int(selection.lengths.sum())
        with self.meter("characters encoded", total) as told:
            tasks = units(catalogue, selection, encoding.divisible)
            for path, characters in in_order(encoding, tasks, self.workers):
                paths.append(path)
                told(characters)
        return paths

    def _write(
        self,
        tokenizer: Tokenizer,
        encoded: list[Path],
        catalogue: Catalogue,
        selection: Selection,
    ) -> Written:
        of_source = np.repeat(
            np.arange(len(self.groups)), [len(group.files) for group in self.groups]
        )
        groups = of_source[catalogue["source"][selection.firsts]]
        weights = [group.weight for group in self.groups] if len(self.groups) > 1 else None
        shards = Shards(self.out, tokenizer, self.options, encoded)
        with self.meter("tokens written", None) as told:
            return shards.write(catalogue, selection, groups, weights, told)

    def _split_facts(self, selection: Selection, written: Written) -> SplitFacts:
        documents, flags = len(selection.firsts), selection.validation
        kept = 0 if flags is None else int(flags.sum())
        split = "none" if not self.options.val_fraction else "groups"
        if flags is None:
            split, kept = "tail", 1
        if split != "none" and not written.val_tokens:
            raise ValueError(
                f"prepare: {written.train_tokens} tokens, none of them for validation; more text "
                "is needed, or --val-fraction 0"
            )
        training = documents if flags is None else documents - kept
        return SplitFacts(
            split, written.train_tokens, written.val_tokens, training, kept, None, measured=False
        )

    def _mixture(self, written: Written) -> list[dict[str, Any]]:
        if len(self.groups) < 2:
            return []
        weights = np.array([group.weight for group in self.groups])
        columns = zip(
            self.groups,
            written.passes.tolist(),
            (weights / weights.sum()).tolist(),
            (written.of_group / written.of_group.sum()).tolist(),
        )
        return [
            {
                "source": group.name,
                "weight": group.weight,
                "passes": round(times, 4),
                "asked": round(asked, 4),
                "share": round(share, 4),
            }
            for group, times, asked, share in columns
        ]

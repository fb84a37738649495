"""From a corpus to token files: encode, split, check, and remember what was done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..formats.files import TEMPORARY_SUFFIX, atomic_write_text, remove_leftovers
from ..tokenizers import Tokenizer
from .corpus import Corpus
from .shards import TokenShards
from .split import LEAST_DOCUMENTS, Sides, SplitFacts, choose_documents, overlap
from .tokens import TokenFile, TokenWriter
from .windows import require_context

TRAIN_FILE, VAL_FILE, FACTS_FILE = "train.bin", "val.bin", "dataset.json"
_WHOLE_FILE = f"whole{TEMPORARY_SUFFIX}"
_STRETCH = 1 << 18

Progress = Callable[[int, int], None]
StoredTokens = TokenFile | TokenShards


@dataclass(frozen=True)
class Dataset:
    """Tokens ready for training; `val` is None without validation.

    `fingerprint` is SHA-256 over the tokenizer's fingerprint and the digests of both sides;
    `prepared` is the folder of `minillm data prepare` that they lie in, if they do.
    """

    train: StoredTokens
    val: StoredTokens | None
    facts: SplitFacts
    fingerprint: str
    prepared: Path | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str], tokenizer: Tokenizer) -> Dataset:
        """Open what `prepare` or `refer` wrote, reading and checking every id.

        Raises ValueError for another tokenizer than the one it was prepared with and for damaged
        files, FileNotFoundError where nothing was prepared.
        """
        folder = Path(folder)
        elsewhere = _prepared_folder(folder / FACTS_FILE)
        if elsewhere is not None:
            from .preparation.prepared import Prepared

            return Prepared.open(elsewhere).dataset(tokenizer)
        facts, fingerprint = _read_facts(folder / FACTS_FILE)
        train = TokenFile.open(folder / TRAIN_FILE, verify=True)
        val = TokenFile.open(folder / VAL_FILE, verify=True) if facts.split != "none" else None
        for tokens in (train, val):
            if tokens is not None and tokens.fingerprint != tokenizer.fingerprint:
                raise ValueError(
                    f"dataset: {tokens.path} was made with the tokenizer "
                    f"{tokens.fingerprint[:12]} of {tokens.vocab_size} ids, this one is "
                    f"{tokenizer.fingerprint[:12]} of {tokenizer.vocab_size}, the same is needed"
                )
        dataset = cls(train, val, facts, fingerprint_of(train, val))
        if dataset.fingerprint != fingerprint:
            raise ValueError(
                f"dataset: {folder} has fingerprint {dataset.fingerprint[:12]}, "
                f"{fingerprint[:12]} is needed; prepare the data again"
            )
        return dataset

    def refer(self, folder: str | os.PathLike[str]) -> None:
        """Write into `folder` where the prepared data lie, for `open` to find them."""
        content = {"prepared": str(self.prepared and self.prepared.resolve())}
        atomic_write_text(Path(folder) / FACTS_FILE, json.dumps(content, indent=2) + "\n")


def prepare(
    corpus: Corpus,
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    *,
    val_fraction: float = 0.1,
    context: int,
    progress: Progress | None = None,
) -> Dataset:
    """Encode `corpus` into folder/train.bin and folder/val.bin.

    With 20 documents or more whole documents are kept for validation, chosen by a hash of their
    text so that equal ones stay together; with fewer the end of the token stream. Documents are
    followed by the tokenizer's end token, or separator, where it has one and there are several.
    `progress` is called with the characters encoded so far and in all. Raises ValueError unless
    each side holds context + 1 tokens and val_fraction lies in 0 ... 1 (1 excluded).
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(
            f"prepare: a validation share of {val_fraction}, 0 or more and below 1 is needed"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    job = _Job(corpus, tokenizer, folder, val_fraction, context, progress)
    hashes = np.frombuffer(corpus.document_hashes, np.uint64)
    if val_fraction == 0:
        job.encode_whole(TRAIN_FILE)
        return job.finish("none", Sides(np.zeros(len(hashes), bool)))
    if len(hashes) >= LEAST_DOCUMENTS and len(np.unique(hashes)) > 1:
        flags = choose_documents(hashes, job.lengths, val_fraction)
        job.encode_documents(flags)
        return job.finish("documents", Sides(flags))
    return job.finish("tail", Sides(None, job.encode_tail()))


class _Job:
    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        folder: Path,
        val_fraction: float,
        context: int,
        progress: Progress | None,
    ) -> None:
        self._corpus, self._tokenizer, self._folder = corpus, tokenizer, folder
        self._val_fraction, self._context, self._progress = val_fraction, context, progress
        self.lengths = np.frombuffer(corpus.document_lengths, np.uint64).astype(np.int64)

    def encode_whole(self, name: str) -> None:
        """All documents into one file."""
        with self._writer(name) as writer:
            self._encode([writer] * len(self.lengths))
            require_context(writer.count, self._context, "prepare")

    def encode_documents(self, flags: np.ndarray) -> None:
        """Each document into the file of its side: `flags` says which are for validation."""
        with self._writer(TRAIN_FILE) as train, self._writer(VAL_FILE) as val:
            self._encode(val if flag else train for flag in flags)
            self._check(train, val)

    def encode_tail(self) -> int:
        """All documents, then the end into a file of its own; returns the border in characters."""
        whole_path = self._folder / _WHOLE_FILE
        try:
            self.encode_whole(_WHOLE_FILE)
            whole = TokenFile.open(whole_path)
            kept = round(len(whole) * self._val_fraction)
            begun = _characters_begun(self._tokenizer)
            border = total = 0
            with self._writer(TRAIN_FILE) as train, self._writer(VAL_FILE) as val:
                at = len(whole) - kept
                for start in range(0, len(whole), _STRETCH):
                    block = whole.ids[start : start + _STRETCH]
                    border += int(begun[block[: max(0, at - start)]].sum())
                    total += int(begun[block].sum())
                    train.write(block[: max(0, at - start)])
                    val.write(block[max(0, at - start) :])
                self._check(train, val)
            del whole, block
            # a tokenizer that gives back all characters has begun as many as there are
            return border * int(self.lengths.sum()) // max(1, total)
        finally:
            whole_path.unlink(missing_ok=True)

    def finish(self, split: str, sides: Sides) -> Dataset:
        """Open the files, measure the overlap and write the facts, which make the data valid."""
        train = TokenFile.open(self._folder / TRAIN_FILE)
        val = None
        if split == "none":
            (self._folder / VAL_FILE).unlink(missing_ok=True)
        else:
            val = TokenFile.open(self._folder / VAL_FILE)
        train_documents, val_documents = sides.documents(self.lengths)
        facts = SplitFacts(
            split,
            len(train),
            len(val) if val is not None else 0,
            train_documents,
            val_documents,
            overlap(self._corpus, sides) if val is not None else None,
        )
        dataset = Dataset(train, val, facts, fingerprint_of(train, val))
        content = {"fingerprint": dataset.fingerprint, "facts": asdict(facts)}
        atomic_write_text(self._folder / FACTS_FILE, json.dumps(content, indent=2) + "\n")
        return dataset

    def _writer(self, name: str) -> TokenWriter:
        tokenizer = self._tokenizer
        return TokenWriter(self._folder / name, tokenizer.vocab_size, tokenizer.fingerprint)

    def _check(self, train: TokenWriter, val: TokenWriter) -> None:
        total = train.count + val.count
        require_context(
            train.count,
            self._context,
            "prepare",
            f"tokens for training, {val.count} of {total} kept for validation",
        )
        require_context(
            val.count,
            self._context,
            "prepare",
            f"tokens of {total} for validation (a share of {self._val_fraction:g})",
        )

    def _encode(self, writers: Iterable[TokenWriter]) -> None:
        end = self._tokenizer.end_id
        ending = np.array([] if end is None or len(self.lengths) == 1 else [end], np.int64)
        done = 0
        for document, writer in zip(self._corpus.documents(), writers):
            for ids, characters in encoded(self._tokenizer, document.pieces()):
                writer.write(ids)
                done += characters
                if self._progress is not None:
                    self._progress(done, self._corpus.facts.characters)
            writer.write(ending)


def encoded(tokenizer: Tokenizer, pieces: Iterable[str]) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the ids of a text, stretch by stretch, with the characters each stands for.

    Joined they are the ids of the whole text: stretches end where the tokenizer allows a cut, and
    text without such a place is held until there is one. What is held back is tried again only
    when it has doubled, so time stays linear.
    """
    held: list[str] = []
    length = wanted = 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length < wanted:
            continue
        text = "".join(held)
        cut = tokenizer.cut(text)
        if cut:
            yield tokenizer.encode_array(text[:cut]), cut
        held = [text[cut:]]
        length -= cut
        wanted = 2 * length
    if length:
        yield tokenizer.encode_array("".join(held)), length


def _characters_begun(tokenizer: Tokenizer) -> np.ndarray:
    """How many characters begin in each token, (vocab_size,) int64: bytes not 10xxxxxx."""
    return np.array(
        [
            sum(byte & 0xC0 != 0x80 for byte in tokenizer.token_bytes(id))
            for id in range(tokenizer.vocab_size)
        ],
        np.int64,
    )


def fingerprint_of(train: StoredTokens, val: StoredTokens | None) -> str:
    """SHA-256 over the tokenizer's fingerprint and the digests of both sides."""
    parts = (train.fingerprint, train.digest, val.digest if val is not None else "")
    return hashlib.sha256("\n".join(parts).encode("ascii")).hexdigest()


def _prepared_folder(path: Path) -> Path | None:
    """The folder of prepared data that a facts file refers to, if it does."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None  # said by who reads the facts
    place = content.get("prepared") if isinstance(content, dict) else None
    return Path(place) if isinstance(place, str) else None


def _read_facts(path: Path) -> tuple[SplitFacts, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return SplitFacts(**content["facts"]), str(content["fingerprint"])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"dataset: {path.parent} holds no prepared data, {path.name} is needed"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"dataset: {path} is damaged ({error}), a file that prepare wrote is "
            "needed; prepare the data again"
        ) from error

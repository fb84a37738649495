"""Texts small enough to be prepared in tests, and ways to prepare them."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minillm.data.preparation.job import Group, Preparation
from minillm.data.preparation.options import Options
from minillm.data.preparation.prepared import Prepared
from minillm.data.reading import Reader
from minillm.data.records import Rows
from minillm.data.sources import find
from minillm.data.text import Decoding
from minillm.tokenizers import ByteTokenizer, Tokenizer

WORDS = (
    "river stone lamp garden winter friend paper moon bread window song road green quiet".split()
)
BYTES = ByteTokenizer()


def sentences(seed: int, count: int = 12) -> str:
    """Text of its own for each seed."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(WORDS), (count, 8))
    return "".join(f"{' '.join(WORDS[i] for i in row)} {seed}.\n" for row in rows)


def records(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_text("".join(lines), encoding="utf-8", newline="")
    return path


@contextmanager
def silent(unit, total):
    yield lambda piece: None


def prepared(
    paths,
    out: Path,
    *,
    tokenizer: Tokenizer = BYTES,
    workers: int = 1,
    on_bad: str = "stop",
    text_field: str = "text",
    groups=None,
    **options,
) -> Prepared:
    """Prepare files as the command does, with the byte tokenizer unless another is given."""
    reader = Reader(Decoding(), Rows(text_field, on_bad))
    if groups is None:
        groups = [Group("", [reader.recognised(source) for source in find(paths).files])]
    return Preparation(
        groups,
        reader,
        out,
        Options(**options),
        lambda text: tokenizer,
        tokenizer.fingerprint,
        workers,
        silent,
    ).run()


def documents_of(tokens, tokenizer: Tokenizer = BYTES) -> list[str]:
    """The texts that lie between the end tokens."""
    ids = tokens.rows(np.zeros(1, int), len(tokens))[0]
    ends = np.flatnonzero(ids == tokenizer.eos_id)
    return [tokenizer.decode(run) for run in np.split(ids, ends + 1)[:-1]]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }

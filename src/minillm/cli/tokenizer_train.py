"""Learn a BPE, WordPiece or Unigram vocabulary, saved as tokenizer.json."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

from minillm.cli.main import OK, tell
from minillm.cli.meter import meter
from minillm.cli.reading_flags import add_reading, reader_of
from minillm.quantities import counted

KINDS = ("bpe", "wordpiece", "unigram")
SHOWN = 1_000_000  # characters that are encoded to say how well it does


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_reading(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for tokenizer.json")
    parser.add_argument(
        "--kind", choices=KINDS, default="bpe", metavar="|".join(KINDS), help="kind (bpe)"
    )
    parser.add_argument(
        "--vocab-size", type=int, metavar="N", required=True, help="tokens, at most"
    )
    parser.add_argument(
        "--cased", action="store_true", help="wordpiece: keep upper case and accents"
    )


def run(arguments: argparse.Namespace) -> int:
    from minillm import tokenizers
    from minillm.data.preparation.sections import sections
    from minillm.data.sources import find, size_of
    from minillm.data.text import Repairs
    from minillm.tokenizers.tokenizer import TOKENIZER_FILE

    if not arguments.files:
        raise ValueError("tokenizer train: no file given, at least 1 is needed (or - for stdin)")
    if not arguments.out:
        raise ValueError("out: an empty name given, a path is needed")
    if (Path(arguments.out) / TOKENIZER_FILE).exists():  # it may be that of a model
        raise ValueError(
            f"tokenizer train: {arguments.out} holds a {TOKENIZER_FILE} already, a folder without "
            "one is needed; choose another --out"
        )
    if arguments.cased and arguments.kind != "wordpiece":
        raise ValueError(f"cased: a {arguments.kind} tokenizer always is, leave it out")
    reader = reader_of(arguments)
    files = reader.recognise(find(arguments.files).files)
    repairs, sample = Repairs(), ""
    with meter("bytes read", size_of(files)) as read:

        def texts() -> Iterator[str]:
            nonlocal sample
            for section in sections(files, reader, repairs, read):
                sample += section.text[: max(0, SHOWN - len(sample))]
                yield section.text

        found = texts()
        first = next(found, "")
        if not first:
            raise ValueError(f"tokenizer train: no text in {files[0].name}, some is needed")
        tokenizer = tokenizers.train(
            arguments.kind,
            itertools.chain((first,), found),
            vocab_size=arguments.vocab_size,
            lowercase=not arguments.cased,
        )
    Path(arguments.out).mkdir(parents=True, exist_ok=True)
    tokenizer.save(arguments.out)
    if repairs.bad_rows:
        tell(f"skipped {counted(repairs.bad_rows, 'bad row')}, the first: {repairs.first_bad_row}")
    size = len(sample.encode("utf-8"))
    ids = len(tokenizer.encode_array(sample))
    tell(
        f"{arguments.out}: {tokenizer.kind} of {tokenizer.vocab_size:,} tokens, "
        f"{size / max(1, ids):.2f} bytes a token on the first {len(sample):,} characters"
    )
    return OK

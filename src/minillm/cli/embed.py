"""Turn texts into vectors with an encoder, and compare them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minillm.cli.machine_flags import add_machine, settle
from minillm.cli.main import OK
from minillm.cli.texts import decoded
from minillm.quantities import counted
from minillm.training.console import Console, shorten, visible

if TYPE_CHECKING:
    from minillm.models.embedding import Embedder

SHOWN = 5  # numbers of a vector
COMPARED = 20  # texts, at most, of which all pairs are shown
WIDTH = 60  # characters of a text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="PATH", help="folder of an encoder, such as BERT")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="what to turn into vectors")
    parser.add_argument("--file", metavar="F", help="also each line of this file, - for stdin")
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print everything, as JSON")


def run(arguments: argparse.Namespace) -> int:
    from minillm.models import embedding

    settle(arguments)
    texts = list(arguments.texts)
    if arguments.file is not None:
        texts += read_lines(arguments.file, "embed")
    if not texts:
        raise ValueError("embed: no text given, at least 1 is needed: minillm embed PATH TEXT")
    embedder = embedding.load(arguments.model)
    vectors = embedder.encode(texts)
    found = document(embedder, texts, vectors)
    console = Console(sys.stdout)
    if arguments.json:
        console.write(json.dumps(found, ensure_ascii=False) + "\n")
    else:
        for line in lines(found):
            console.write((visible(line) if console.isatty() else line) + "\n")
    if console.full is not None:
        raise console.full
    return OK


def read_lines(name: str, command: str) -> list[str]:
    """The lines of a file in UTF-8, or of standard input for "-", without empty ones."""
    return [line for line in read_text(name, command).split("\n") if line.strip()]


def read_text(name: str, command: str) -> str:
    """All of a file in UTF-8, or of standard input for "-", its line ends LF."""
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    text = decoded(data, command, "standard input" if name == "-" else name)
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def document(embedder: Embedder, texts: Sequence[str], vectors: Any) -> dict[str, Any]:
    """What --json prints; the cosines of all pairs where there are not too many."""
    found: dict[str, Any] = {
        "dimensions": embedder.dimensions,
        "pooling": list(embedder.modes),
        "normalized": embedder.normalize,
        "texts": [],
    }
    for text, vector in zip(texts, vectors):
        ids, cut = embedder.tokenize(text)
        numbers = [float(str(number)) for number in vector]  # the shortest that float32 needs
        found["texts"].append({"text": text, "tokens": len(ids), "cut": cut, "vector": numbers})
    if 1 < len(texts) <= COMPARED:
        found["cosines"] = cosines(vectors)
    return found


def cosines(vectors: Any) -> list[list[float]]:
    """Of each vector with each, to 6 digits; 0 with a vector of zeros."""
    import numpy

    vectors = vectors.astype(numpy.float64)
    norms = numpy.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / numpy.where(norms == 0, 1, norms)
    return (unit @ unit.T).round(6).tolist()


def lines(found: dict[str, Any]) -> list[str]:
    """The same for a person."""
    told = []
    for place, entry in enumerate(found["texts"], 1):
        numbers = " ".join(f"{number:8.4f}" for number in entry["vector"][:SHOWN])
        told.append(f"{place:3} {shorten(' '.join(entry['text'].split()), WIDTH)}")
        told.append(f"    {counted(entry['tokens'], 'token')}: {numbers} ...")
    scaled = "normalised" if found["normalized"] else "not normalised"
    pooled = " and ".join(found["pooling"])
    told.append(f"{found['dimensions']} numbers each, pooled by {pooled}, {scaled}; all: --json")
    if "cosines" in found:
        told += [
            "",
            "cosine" + "".join(f"{place:8}" for place in range(1, len(found["texts"]) + 1)),
        ]
        for place, row in enumerate(found["cosines"], 1):
            told.append(f"{place:6}" + "".join(f"{cosine:8.4f}" for cosine in row))
    elif len(found["texts"]) > 1:
        told.append(f"no table of cosines: more than {COMPARED} texts")
    return told

"""Finding out the encoding of a file from its bytes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from itertools import chain

import numpy as np

from .text import mark_of, split_head


def guess_encoding(chunks: Iterable[bytes]) -> tuple[str, str]:
    """The encoding that the bytes of a file are most likely in, and what speaks against UTF-8.

    A byte order mark tells; else all that is valid UTF-8 is that; else zero bytes at even or odd
    places speak for UTF-16; the rest is taken as cp1252, or as latin-1 where that cannot be.
    """
    head, rest = split_head(chunks)
    marked = mark_of(head)
    if marked:
        return marked.removesuffix("-le").removesuffix("-be"), "by its byte order mark"
    decoder, offset, fault = codecs.getincrementaldecoder("utf-8")(), 0, ""
    counts = np.zeros(256, np.int64)
    zeros = [0, 0]
    for chunk in chain((head,), rest):
        values = np.frombuffer(chunk, np.uint8)
        counts += np.bincount(values, minlength=256)
        for side in (0, 1):
            zeros[(side + offset) % 2] += int((values[side::2] == 0).sum())
        if not fault:
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                at = offset - held + error.start
                fault = f"byte 0x{error.object[error.start]:02X} at offset {at} is not UTF-8"
        offset += len(chunk)
    if zeros[0] + zeros[1] > offset // 8:
        return ("utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"), "zero bytes, a guess"
    if not fault:
        return "utf-8", ""
    undefined = counts[[0x81, 0x8D, 0x8F, 0x90, 0x9D]].sum()
    return ("latin-1" if undefined else "cp1252"), f"{fault}; a guess"

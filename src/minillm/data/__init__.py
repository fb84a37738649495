"""From files on disk to batches: corpus, token files, windows.

corpus = read(["tiny.txt", "more/"])
dataset = prepare(corpus, tokenizer, "run/data", context=256)
windows = Windows(dataset.train, context=256, seed=0)
inputs, targets = windows.batch(first_sample=0, size=16)
"""

from .corpus import Corpus, Document, read
from .facts import Facts
from .preparation.prepared import Prepared
from .prepare import Dataset, prepare
from .shards import TokenShards
from .split import SplitFacts
from .tokens import TokenFile, TokenWriter
from .windows import Windows, validation

__all__ = [
    "Corpus",
    "Dataset",
    "Document",
    "Facts",
    "Prepared",
    "SplitFacts",
    "TokenFile",
    "TokenShards",
    "TokenWriter",
    "Windows",
    "prepare",
    "read",
    "validation",
]

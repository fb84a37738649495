"""A model that is a table: the logits after a text are looked up, for sums done by hand."""

from types import SimpleNamespace

import numpy as np

from minillm import Tensor
from minillm.generation import Reader


class TableModel:
    """`row(text)` gives the logits (V,) after a text, a tuple of ids."""

    def __init__(self, row, vocab_size, context=None):
        self.row = row
        self.config = SimpleNamespace(
            kind="decoder", n_layer=0, context=context, vocab_size=vocab_size
        )

    def eval(self):
        return self

    def __call__(self, ids, cache=None):
        texts = [tuple(row[: end + 1]) for row in ids.tolist() for end in range(len(row))]
        rows = np.array([self.row(text) for text in texts], np.float32)
        return Tensor(rows.reshape(*ids.shape, -1))

    def next_logits(self, ids, cache=None):
        return Tensor(np.array([self.row(tuple(row)) for row in ids.tolist()], np.float32))


def table_reader(row, vocab_size, context=None):
    return Reader(TableModel(row, vocab_size, context), use_cache=False)


def log(*probabilities):
    """Logits of probabilities."""
    with np.errstate(divide="ignore"):
        return np.log(np.array(probabilities, np.float64)).astype(np.float32)


class MarkovModel:
    """The logits after an id are its row of `table` (V, V): as much as a cache need not hold."""

    def __init__(self, table, context=None):
        self.table = np.asarray(table, np.float32)
        self.config = SimpleNamespace(
            kind="decoder", n_layer=0, context=context, vocab_size=len(self.table)
        )

    def eval(self):
        return self

    def __call__(self, ids, cache=None):
        return Tensor(self.table[ids])

    def next_logits(self, ids, cache=None):
        return Tensor(self.table[ids[:, -1]])

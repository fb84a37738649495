"""The rest of a text from its beginning, which is read in both directions: a T5.

That is prefix language modelling as an encoder-decoder does it (Raffel et al. 2020, section 3.3.1):
the encoder sees all of the prefix, the decoder writes on. A decoder alone would need a mask that no
published layout has a place for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy

from minillm.data import Facts, Windows
from minillm.models.embedding import padded
from minillm.tensor import Tensor
from minillm.tokenizers import Tokenizer
from minillm.training.objective import IGNORED, smoothing
from minillm.training.pretraining import span
from minillm.training.settings import Settings

KINDS = 4  # added to the kinds of rows of span corruption: splits of its own


class Batch(NamedTuple):
    """What the encoder reads (B, S), where it is text, and what the decoder writes (B, T)."""

    ids: numpy.ndarray
    mask: numpy.ndarray
    targets: numpy.ndarray


class PrefixModelling(span.SpanCorruption):
    """Windows of a dataset, each cut in two anywhere: a prefix, an end token behind it, the rest.

    Cut anew each time a window is seen, in the same place in validation. Measured in nats a token
    of the rest.
    """

    def windows_of(self, tokens: Any, context: int, shortest: int, seed: int) -> Windows:
        return Windows(tokens, context, seed)

    @property
    def sample_tokens(self) -> float:
        """Of both sides."""
        return self.windows.context + 1

    def corrupted(self, windows: numpy.ndarray, kind: int, numbers: Any) -> Any:
        """Rows of windows (B, L) that have these numbers, each side padded to the longest."""
        end = self.tokenizer.eos_id
        assert end is not None
        before, behind = [], []
        for row, number in zip(windows.tolist(), numbers, strict=True):
            sequence = numpy.random.SeedSequence(
                (self.seed, int(number)), spawn_key=(kind + KINDS,)
            )
            cut = 1 + int(numpy.random.Philox(sequence).random_raw()) % (len(row) - 1)
            before.append([*row[:cut], end])
            behind.append(row[cut:])
        ids, mask = padded(before, self.tokenizer.role_ids["pad"])
        return Batch(ids, mask, padded(behind, IGNORED)[0])

    def tokens(self, batch: Any) -> int:
        return int(batch.mask.sum()) + self.targets(batch)

    def targets(self, batch: Any) -> int:
        return int((batch.targets != IGNORED).sum())

    def loss(self, model: Any, batch: Any) -> Tensor:
        how = {"reduction": "sum", "label_smoothing": smoothing(model, self.label_smoothing)}
        loss: Tensor = model.loss(batch.ids, batch.targets, batch.mask, **how)
        return loss


def specials(kind: str, facts: Facts) -> tuple[str, ...]:
    return (span.PAD, span.END)


def check(settings: Settings, tokenizer: Tokenizer) -> None:
    span.check_tokens(settings, tokenizer, ())
    if (settings.context or 0) < 2:
        raise ValueError(f"context: {settings.context}, 2 or more is needed to cut it in two")


PRETRAINING = span.PRETRAINING._replace(
    specials=specials,
    check=check,
    objective=PrefixModelling.of,
    scores=6,
    next_command='generate {run} --prompt "..."',
)

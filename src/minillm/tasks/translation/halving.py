"""Another way to cut the same text: tokens are taken apart again into what they were merged of.

After Provilkov et al. 2020 (BPE-dropout): words met in one cut only are learnt as they stand, those
met in several by their parts as well. There merges are left out while a text is cut; here they are
undone afterwards, which needs no second encoder.
"""

from __future__ import annotations

import numpy

from minillm.tokenizers import Tokenizer
from minillm.tokenizers.merging import pairs


class Halving:
    """Undoes each merge with the probability `share`; a character is never taken apart.

    What happens to a row depends on the stream that is given alone. ValueError for a tokenizer
    without merges.
    """

    def __init__(self, tokenizer: Tokenizer, share: float) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"subword-dropout: {share}, 0 <= share < 1 is needed")
        merges = tokenizer.to_dict()["model"].get("merges")
        if merges is None:
            raise ValueError(
                f"subword-dropout: the {tokenizer.kind} tokenizer has no merges to undo, one of "
                "kind bpe is needed"
            )
        self.share = share
        self.halves: dict[int, tuple[int, int]] = {}
        for left, right in pairs(merges):
            made, one, other = (tokenizer.token_to_id(t) for t in (left + right, left, right))
            if made is None or one is None or other is None:
                continue
            if _are_texts(tokenizer, [one, other]):
                self.halves[made] = one, other

    def __call__(self, ids: list[int], stream: numpy.random.Generator) -> list[int]:
        """The ids of the same text, cut into more pieces."""
        found: list[int] = []
        waiting = ids[::-1]
        while waiting:
            id = waiting.pop()
            parts = self.halves.get(id)
            if parts is not None and stream.random() < self.share:
                waiting += parts[::-1]
            else:
                found.append(id)
        return found


def _are_texts(tokenizer: Tokenizer, parts: list[int]) -> bool:
    """Whether each part is whole characters."""
    return all("\ufffd" not in tokenizer.decode([part]) for part in parts)

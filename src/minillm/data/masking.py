"""Which tokens of a row are hidden from a masked language model, and what stands in their place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..tokenizers import Tokenizer

SHARE = 0.15  # of the tokens are to be guessed
MASKED, RANDOM = 0.8, 0.1  # of these: hidden, another token; the rest stand as they are
CONTINUING = "##"  # begins the pieces that go on with a word


class Row(NamedTuple):
    """Ids as the model reads them, and where something is to be guessed: the places, the ids."""

    ids: np.ndarray
    places: np.ndarray
    targets: np.ndarray


class Masking:
    """Hides tokens as BERT does (Devlin et al. 2018, section 3.1; whole words: release of 2019).

    Of n tokens that are no control tokens round(0.15 n), one at least, are to be guessed: 80 % of
    them become the mask token, 10 % any token, 10 % stand. What happens to a row depends on its
    ids and (seed, kind, number) alone. `whole_word` chooses words, as many as fit that number, one
    at least.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int, whole_word: bool = False) -> None:
        self._mask, self._seed, self._whole_word = tokenizer.role_ids["mask"], seed, whole_word
        self.ordinary = np.ones(tokenizer.vocab_size, bool)
        self.ordinary[list(tokenizer.special_tokens.values())] = False
        self._ordinary_ids = np.flatnonzero(self.ordinary)
        names = map(tokenizer.id_to_token, range(tokenizer.vocab_size))
        self._continues = np.array([name.startswith(CONTINUING) for name in names])

    def __call__(self, ids: np.ndarray, kind: int, number: int) -> Row:
        """The row `number` of a kind (training or validation) with ids (T,)."""
        sequence = np.random.SeedSequence((self._seed, number), spawn_key=(kind,))
        stream = np.random.Philox(sequence)
        places = np.flatnonzero(self.ordinary[ids])
        count = min(len(places), max(1, round(SHARE * len(places))))
        draw = self._words if self._whole_word else self._tokens
        chosen = np.sort(draw(ids, places, count, stream)) if count else places
        hidden = ids.copy()
        fate = (stream.random_raw(len(chosen)) >> np.uint64(11)) * 2.0**-53
        others = stream.random_raw(len(chosen)) % np.uint64(len(self._ordinary_ids))
        hidden[chosen[fate < MASKED]] = self._mask
        replaced = (fate >= MASKED) & (fate < MASKED + RANDOM)
        hidden[chosen[replaced]] = self._ordinary_ids[others[replaced].astype(np.int64)]
        return Row(hidden, chosen, ids[chosen])

    def _tokens(
        self, ids: np.ndarray, places: np.ndarray, count: int, stream: np.random.Philox
    ) -> np.ndarray:
        order = np.argsort(stream.random_raw(len(places)), kind="stable")
        return places[order[:count]]

    def _words(
        self, ids: np.ndarray, places: np.ndarray, count: int, stream: np.random.Philox
    ) -> np.ndarray:
        begins = ~self._continues[ids[places]] | (np.diff(places, prepend=-2) > 1)
        words = np.split(places, np.flatnonzero(begins)[1:])
        order = np.argsort(stream.random_raw(len(words)), kind="stable")
        chosen: list[int] = []
        for word in (words[place].tolist() for place in order):
            if not chosen or len(chosen) + len(word) <= count:
                chosen += word
        return np.array(chosen)

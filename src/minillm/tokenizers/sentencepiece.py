"""SentencePiece's own way from text to ids: what a `.model` file or a GGUF vocabulary means.

Source: Kudo and Richardson 2018, google/sentencepiece.
"""

from __future__ import annotations

import base64

import numpy as np

from .decoders import decoder
from .piece_cache import PieceCache
from .post_processors import Template
from .reading import Document
from .sentencepiece_encoding import BPEPieces, Normalizer, UnigramPieces
from .sentencepiece_model import BPE, CONTROL, UNKNOWN, USER_DEFINED, PieceModel
from .tokenizer import Tokenizer, check_text, id_dtype
from .tokenizer_json import added_token, whole_document


class SentencePieceTokenizer(Tokenizer):
    """BPE or Unigram on pieces in which `▁` stands for a space.

    Encodes with Python alone; the ids are SentencePiece's. A tokenizer.json cannot say all of this
    exactly: what `save` writes gives other ids for a few rare texts, such as marks that combine
    with nothing and long texts whose best path is decided by rounding. `model` is what it was made
    from.
    """

    def __init__(self, model: PieceModel, template: Template) -> None:
        """`template` says what add_special_tokens adds. Raises ValueError for pieces that occur
        twice and for what is not supported."""
        self.kind = model.kind
        specials = {
            piece: id
            for id, (piece, type) in enumerate(zip(model.pieces, model.types))
            if type in (CONTROL, UNKNOWN)
        }
        eos = model.roles.get("eos")
        super().__init__(
            model.pieces,
            (),
            specials,
            None if eos is None else model.pieces[eos],
            decoder(decoder_document(model)),
            template,
        )
        self.role_ids = dict(model.roles)
        self.model = model
        self._normalizer = Normalizer(model)
        self._encoder = BPEPieces(model) if model.kind == BPE else UnigramPieces(model)
        self._cache = PieceCache(self._encoder.lists, id_dtype(self.vocab_size))

    def encode_array(self, text: str) -> np.ndarray:
        check_text("encode", text)
        stretches = self._encoder.stretches(self._normalizer(text))
        packed = b"".join(map(self._cache.__getitem__, stretches))
        return np.frombuffer(packed, id_dtype(self.vocab_size))

    def cut(self, text: str) -> int:
        """No text can be cut: what follows a cut would get a space of its own."""
        return 0

    def to_dict(self) -> Document:
        model = self.model
        found = (CONTROL, UNKNOWN, USER_DEFINED) if model.kind == BPE else (CONTROL, UNKNOWN)
        added = [
            added_token(piece, id, type != USER_DEFINED)
            for id, (piece, type) in enumerate(zip(model.pieces, model.types))
            if type in found
        ]
        in_parts = USER_DEFINED in model.types and model.kind == BPE
        return whole_document(
            added,
            _normalizer_document(model, model.add_dummy_prefix and not in_parts),
            _split_document(model, model.add_dummy_prefix and in_parts),
            self._template.document(self._tokens),
            decoder_document(model),
            self._encoder.document(),
        )


def decoder_document(model: PieceModel) -> Document:
    """The decoder of tokenizer.json for such a model."""
    steps: list[Document] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.add_dummy_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _split_document(model: PieceModel, prefix: bool) -> Document | None:
    """Unigram may be cut before each `▁` where no piece has one inside; BPE may not."""
    separate = model.kind != BPE and not any("▁" in piece[1:] for piece in model.pieces)
    if not separate and not prefix:
        return None
    scheme = "first" if prefix else "never"
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": separate}


def _normalizer_document(model: PieceModel, prefix: bool) -> Document:
    steps: list[Document] = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if model.remove_extra_whitespaces:
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if prefix:
        steps.append({"type": "Prepend", "prepend": "▁"})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    return {"type": "Sequence", "normalizers": steps}

"""Opening files of SentencePiece and of llama2.c."""

from __future__ import annotations

from pathlib import Path

from minillm.quantities import counted

from ..formats.llama2c import read_vocabulary
from .character_merging import BYTE_TOKENS, MARK
from .description import Description
from .post_processors import Template, around
from .reading import short
from .sentencepiece import SentencePieceTokenizer
from .sentencepiece_model import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    PieceModel,
    parse,
)

_CLASSES = ("LlamaTokenizer", "T5Tokenizer", "GemmaTokenizer", "CodeLlamaTokenizer")
_T5_EXTRA_IDS = 100


def from_model_file(path: Path, about: Description) -> SentencePieceTokenizer:
    """A `.model` file, with what a tokenizer_config.json beside it adds.

    Without such a file a text is said to begin with the file's <s>, or to end with </s> where it
    has no <s>, as Llama's and T5's do.
    """
    model = parse(path.read_bytes())
    kind = _class_of(about)
    if kind == "T5Tokenizer":
        count = int(about.config.get("extra_ids", _T5_EXTRA_IDS))
        names = [f"<extra_id_{index}>" for index in reversed(range(count))]
        model = _with_more(model, [name for name in names if name not in model.pieces], CONTROL)
    for token in sorted(about.added, key=lambda token: token.id):
        if token.id < len(model.pieces) and model.pieces[token.id] == token.content:
            continue
        if token.id != len(model.pieces):
            raise ValueError(
                f"added token {token.content!r} has id {token.id}, the next free one is "
                f"{len(model.pieces)}"
            )
        model = _with_more(model, [token.content], CONTROL if token.special else USER_DEFINED)
    ids = {piece: id for id, piece in enumerate(model.pieces)}
    roles = model.roles | {role: ids[name] for role, name in about.roles.items() if name in ids}
    types = list(model.types)
    for name in about.specials:
        if name in ids and types[ids[name]] != UNKNOWN:
            types[ids[name]] = CONTROL
    begins = "bos" in model.roles and kind != "T5Tokenizer"
    template = _template_of(about, roles, begins, not begins and "eos" in roles)
    return SentencePieceTokenizer(model._replace(roles=roles, types=types), template)


def from_llama2c(path: Path) -> SentencePieceTokenizer:
    """The vocabulary of a llama2.c model: the first three pieces are <unk>, <s> and </s>."""
    pieces, scores = read_vocabulary(path)
    names = [piece.decode("utf-8").replace(" ", MARK) for piece in pieces]
    if len(names) < 3:
        raise ValueError(f"{counted(len(names), 'piece')}, <unk>, <s> and </s> are needed at least")
    names[:3] = ["<unk>", "<s>", "</s>"]
    byte_tokens = set(BYTE_TOKENS)
    types = [BYTE if name in byte_tokens else NORMAL for name in names]
    types[:3] = [UNKNOWN, CONTROL, CONTROL]
    fallback = byte_tokens <= set(names)
    roles = {"unk": 0, "bos": 1, "eos": 2}
    model = PieceModel(BPE, names, scores, types, roles, b"", True, False, fallback)
    return SentencePieceTokenizer(model, around([1], []))


def _class_of(about: Description) -> str:
    """The class that tokenizer_config.json names, "" for none; ValueError for one not known."""
    name = about.config.get("tokenizer_class")
    if name in (None, "PreTrainedTokenizerFast", "TokenizersBackend"):
        return ""
    plain = str(name).removesuffix("Fast")
    if plain not in _CLASSES:
        raise ValueError(
            f"tokenizer_class {short(name)} without tokenizer.json is not supported, one of "
            f"{', '.join(_CLASSES)} is needed"
        )
    return plain


def _template_of(about: Description, roles: dict[str, int], begin: bool, end: bool) -> Template:
    """What add_bos_token and add_eos_token of the config say; `begin` and `end` where they do not.

    ValueError where a token is to be added that there is none of.
    """
    ids = []
    for role, default in (("bos", begin), ("eos", end)):
        wanted = about.config.get(f"add_{role}_token")
        wanted = default if wanted is None else wanted
        if wanted and role not in roles:
            raise ValueError(f"add_{role}_token is set, but there is no {role} token")
        ids.append([roles[role]] if wanted else [])
    return around(*ids)


def _with_more(model: PieceModel, names: list[str], type: int) -> PieceModel:
    return model._replace(
        pieces=[*model.pieces, *names],
        scores=[*model.scores, *[0.0] * len(names)],
        types=[*model.types, *[type] * len(names)],
    )

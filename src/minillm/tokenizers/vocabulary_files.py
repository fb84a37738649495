"""Tokenizers out of the older files: vocab.json with merges.txt, and vocab.txt."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from minillm.quantities import counted

from .added_tokens import AddedToken
from .bpe import read_merges
from .description import LARGEST_FILE, Description, description, read_json
from .post_processors import around
from .reading import Document, settings, short
from .tokenizer import CONFIG_FILE, END_OF_TEXT, TOKENIZER_FILE
from .tokenizer_json import byte_level

VOCAB_JSON, MERGES, VOCAB_TXT = "vocab.json", "merges.txt", "vocab.txt"

_ROBERTA = {
    "bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>",
    "mask": "<mask>",
}  # fmt: skip
_GPT2 = dict.fromkeys(("bos", "eos", "unk"), END_OF_TEXT)
_BERT = {role: f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
_BYTE_LEVEL_CLASSES = {"GPT2Tokenizer": _GPT2, "RobertaTokenizer": _ROBERTA}
_WORD_PIECE_CLASSES = dict.fromkeys(
    ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"), _BERT
)


class VocabularyFile(NamedTuple):
    """A tokenizer's main file, and what tokenizer.json would say in its place."""

    path: Path

    def read(self) -> tuple[Document, Description]:
        """The content of a tokenizer.json, and the roles and the chat template.

        vocab.json and merges.txt  byte-level BPE, GPT-2's or RoBERTa's as tokenizer_class says
                                   or, without it, as the vocabulary has <|endoftext|> or <s>
        vocab.txt                  BERT's WordPiece; lowercase unless do_lower_case is false

        The options are those of tokenizer_config.json; further tokens are in its
        added_tokens_decoder or in added_tokens.json. Raises ValueError for what is missing,
        damaged or not supported.
        """
        about = description(self.path.parent)
        document, roles = (_word_piece if self.path.name == VOCAB_TXT else _byte_level)(
            self.path, about
        )
        vocab: dict[str, int] = document["model"]["vocab"]
        added = {token.content: token for token in about.added}
        for role, name in roles.items():
            if name not in added and name in vocab:
                lstrip = role == "mask" and name == _ROBERTA["mask"]
                added[name] = AddedToken(name, vocab[name], lstrip=lstrip, special=True)
        document["added_tokens"] = [token.entry() for token in added.values()]
        known = {role: name for role, name in roles.items() if name in vocab or name in added}
        specials = [*about.specials, *known.values()]
        return document, about._replace(roles=known, specials=specials)


def vocabulary_file(path: Path) -> VocabularyFile | None:
    """The file that `path`, a folder or a file, names; None if it is none of these kinds."""
    if not path.is_dir():
        known = path.name in (VOCAB_JSON, MERGES, VOCAB_TXT)
        main = VOCAB_JSON if path.name == MERGES else path.name
        return VocabularyFile(path.with_name(main)) if known else None
    if (path / TOKENIZER_FILE).exists():
        return None
    if (path / VOCAB_JSON).exists() and (path / MERGES).exists():
        return VocabularyFile(path / VOCAB_JSON)
    return VocabularyFile(path / VOCAB_TXT) if (path / VOCAB_TXT).exists() else None


def _byte_level(path: Path, about: Description) -> tuple[Document, dict[str, str]]:
    vocab = read_json(path)
    if not all(type(id) is int for id in vocab.values()):
        raise ValueError(f"{path.name} has ids that are no integers, tokens and ids are needed")
    kind = _GPT2 if END_OF_TEXT in vocab or "<s>" not in vocab else _ROBERTA
    kind = _kind(about.config, _BYTE_LEVEL_CLASSES, kind)
    chosen = _options(about.config, add_prefix_space=False, add_bos_token=False)
    roles = kind | about.roles
    around_text = None
    if kind is _ROBERTA:
        sep, cls = ([roles[role], _id(vocab, roles, role)] for role in ("sep", "cls"))
        around_text = {"type": "RobertaProcessing", "sep": sep, "cls": cls}
    elif chosen["add_bos_token"]:
        names = {id: token for token, id in vocab.items()}
        around_text = around([_id(vocab, roles, "bos")], []).document(names)
    merges = path.with_name(MERGES)
    if not merges.exists():
        raise ValueError(f"{MERGES} is missing, it is needed beside {VOCAB_JSON}")
    model = {"type": "BPE", "vocab": vocab, "merges": list(map(list, read_merges(_lines(merges))))}
    document = {
        "version": "1.0",
        "pre_tokenizer": byte_level(True) | {"add_prefix_space": chosen["add_prefix_space"]},
        "post_processor": around_text,
        "decoder": byte_level(True),
        "model": model,
    }
    return document, roles


def _word_piece(path: Path, about: Description) -> tuple[Document, dict[str, str]]:
    kind = _kind(about.config, _WORD_PIECE_CLASSES, _BERT)
    chosen = _options(
        about.config, do_lower_case=True, tokenize_chinese_chars=True, do_basic_tokenize=True
    )
    if not chosen["do_basic_tokenize"] or about.config.get("never_split"):
        part = "never_split" if chosen["do_basic_tokenize"] else "do_basic_tokenize false"
        raise ValueError(f"{part} of {CONFIG_FILE} is not supported")
    accents = about.config.get("strip_accents")
    if accents is not None and type(accents) is not bool:
        raise ValueError(f"strip_accents of {CONFIG_FILE} is {short(accents)}, a flag is needed")
    tokens = _lines(path)
    vocab = {token: id for id, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        twice = next(token for id, token in enumerate(tokens) if vocab[token] != id)
        raise ValueError(f"token {twice!r} occurs twice, each needs to be distinct")
    roles = kind | about.roles
    unk, sep, cls = ([roles[role], _id(vocab, roles, role)] for role in ("unk", "sep", "cls"))
    document = {
        "version": "1.0",
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": chosen["tokenize_chinese_chars"],
            "strip_accents": accents,
            "lowercase": chosen["do_lower_case"],
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": sep, "cls": cls},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unk[0],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
    return document, roles


def _kind(
    config: Document, classes: dict[str, dict[str, str]], otherwise: dict[str, str]
) -> dict[str, str]:
    """The roles that the tokenizer's class has by itself."""
    name = config.get("tokenizer_class")
    if name is None:
        return otherwise
    found = classes.get(str(name).removesuffix("Fast"))
    if found is None:
        raise ValueError(
            f"tokenizer_class {short(name)} without {TOKENIZER_FILE} is not supported, one of "
            f"{', '.join(classes)} is needed"
        )
    return found


def _options(config: Document, **defaults: bool) -> Document:
    given = {name: config[name] for name in defaults if name in config}
    return settings(given, CONFIG_FILE, defaults)


def _id(vocab: dict[str, int], roles: dict[str, str], role: str) -> int:
    if roles[role] not in vocab:
        raise ValueError(f"the {role} token {roles[role]!r} is not in the vocabulary, it is needed")
    return vocab[roles[role]]


def _lines(path: Path) -> list[str]:
    """The lines of a text, without their ends; no other character ends a line."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(
            f"{path.name} has {counted(size, 'byte')}, at most {LARGEST_FILE:,} are accepted"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 ({error})") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]

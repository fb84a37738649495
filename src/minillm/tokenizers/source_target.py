"""Characters of a source text to ids, ids to characters of a target text."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.files import atomic_write_text
from .tokenizer import CONFIG_FILE, Tokenizer, check_text, id_dtype

CLASS = "SourceTargetTokenizer"
FILES = {"source": "source_vocabulary.json", "target": "target_vocabulary.json"}


class SourceTargetTokenizer(Tokenizer):
    """Encodes with one vocabulary of characters and decodes with another, as translation needs.

    Names, pieces and vocab_size are those of the target; source_vocab_size is the source's. A
    character the source has not is `unknown`. With add_special_tokens, `before` and `after` stand
    around the text.
    """

    kind = "source-target"

    def __init__(
        self,
        source: Sequence[str],
        target: Sequence[str],
        *,
        unknown: str = "<unk>",
        eos: str = "</s>",
        before: Sequence[str] = (),
        after: Sequence[str] = (),
    ) -> None:
        """Tokens by id: characters, and control tokens spelled <...>.

        ValueError for tokens of several characters, for how text is cut into them is not known, for
        tokens that occur twice, and for control tokens that are not there.
        """
        for side, tokens in (("source", source), ("target", target)):
            for token in tokens:
                if len(token) != 1 and not is_control(token):
                    raise ValueError(
                        f"tokenizer: {side} token {token!r} is neither one character nor a control "
                        "token; how a text is cut into such tokens is not known"
                    )
        specials = {token: id for id, token in enumerate(target) if is_control(token)}
        pieces = [b"" if is_control(token) else token.encode("utf-8") for token in target]
        super().__init__(target, pieces, specials, eos)
        self._source = {token: id for id, token in enumerate(source)}
        if len(self._source) != len(source):
            raise ValueError("tokenizer: a source token occurs twice, each needs to be distinct")
        missing = [token for token in (unknown, *before, *after) if token not in self._source]
        if missing:
            raise ValueError(f"tokenizer: {missing[0]!r} is none of the source tokens")
        self.source_vocab_size = len(source)
        self._unknown, self._before, self._after = unknown, list(before), list(after)

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of `text`, one a character; TypeError for what is not str."""
        check_text("encode", text)
        unknown = self._source[self._unknown]
        ids = [self._source.get(character, unknown) for character in text]
        return np.array(ids, id_dtype(self.source_vocab_size))

    def encode(
        self, text: str, add_special_tokens: bool = False, split_special_tokens: bool = True
    ) -> list[int]:
        """The ids of `text` as a list; control tokens spelled in it are characters like others.

        ValueError for split_special_tokens=False.
        """
        if not split_special_tokens:
            raise ValueError(
                "encode: control tokens in a source text are always split, True is needed"
            )
        ids: list[int] = self.encode_array(text).tolist()
        if not add_special_tokens:
            return ids
        before, after = ([self._source[t] for t in part] for part in (self._before, self._after))
        return [*before, *ids, *after]

    def cut(self, text: str) -> int:
        return len(text)

    def to_dict(self) -> dict[str, Any]:
        """Both vocabularies and what tokenizer_config.json says; no library has such a file."""
        return {"source": list(self._source), "target": self._tokens} | self._about()

    def _about(self) -> dict[str, Any]:
        return {
            "tokenizer_class": CLASS,
            "unk_token": self._unknown,
            "eos_token": None if self.eos_id is None else self._tokens[self.eos_id],
            "before_source": self._before,
            "after_source": self._after,
        }

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write source_vocabulary.json, target_vocabulary.json and tokenizer_config.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = self.to_dict()
        for side, name in FILES.items():
            text = json.dumps(content[side], ensure_ascii=False, indent=2) + "\n"
            atomic_write_text(folder / name, text)
        about = json.dumps(self._about(), ensure_ascii=False, indent=2) + "\n"
        atomic_write_text(folder / CONFIG_FILE, about)


def is_control(token: str) -> bool:
    return len(token) > 2 and token.startswith("<") and token.endswith(">")


def is_saved_in(folder: Path) -> bool:
    """Whether `SourceTargetTokenizer.save` wrote what is in a folder."""
    about = folder / CONFIG_FILE
    if not about.is_file() or not all((folder / name).is_file() for name in FILES.values()):
        return False
    return _content(about, dict).get("tokenizer_class") == CLASS


def load_source_target(folder: Path) -> SourceTargetTokenizer:
    """What `SourceTargetTokenizer.save` wrote; ValueError in one line for what is damaged."""
    about = _content(folder / CONFIG_FILE, dict)
    source, target = (_content(folder / name, list) for name in FILES.values())
    before, after = about.get("before_source", []), about.get("after_source", [])
    unknown, eos = about.get("unk_token"), about.get("eos_token")
    for part in (source, target, before, after, [unknown, eos]):
        if not isinstance(part, list) or not all(isinstance(token, str) for token in part):
            raise ValueError(f"{folder}: tokens that are not strings, strings are needed")
    return SourceTargetTokenizer(
        source, target, unknown=str(unknown), eos=str(eos), before=before, after=after
    )


def _content(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, kind):
        raise ValueError(f"{path}: a {kind.__name__} is needed, this is a {type(content).__name__}")
    return content

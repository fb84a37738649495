"""Where the byte-level tokenizers people use cut a text, and the names GGUF has for that."""

from __future__ import annotations

from .reading import Document
from .tokenizer_json import byte_level

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_WORDS}|\p{{N}}|{_REST}"
_SYMBOLS = r"[\p{P}\$\+<=>\^~\|]+"
_FALCON_SYMBOLS = r"[\p{P}\$\+<=>\^~\|`]+"
_THREE_DIGITS = "[0-9][0-9][0-9]"
_NUMBERS = r"\p{N}+"

# Patterns that never look from a letter or number to a space behind it: whether they cut there.
SEPARATE = {
    GPT2: True,
    LLAMA3: True,
    QWEN2: True,
    _SYMBOLS: False,
    _FALCON_SYMBOLS: False,
    _THREE_DIGITS: False,
    _NUMBERS: False,
    r"\p{N}": False,
    r"\d": False,
}


def isolated(pattern: str) -> Document:
    """The pre-tokeniser that makes a piece of each match and of what lies between matches."""
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


_DIGITS: Document = {"type": "Digits", "individual_digits": True}
_PLAIN, _GPT2 = byte_level(False), byte_level(True)

# The steps for each name of tokenizer.ggml.pre, one after the other.
_STEPS: dict[tuple[str, ...], list[Document]] = {
    ("gpt-2", "phi-2", "roberta-bpe"): [_GPT2],
    ("smollm", "starcoder", "refact"): [_DIGITS, _GPT2],
    ("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx"): [isolated(LLAMA3), _PLAIN],
    ("qwen2",): [isolated(QWEN2), _PLAIN],
    ("falcon",): [*map(isolated, (_FALCON_SYMBOLS, GPT2, _THREE_DIGITS)), _PLAIN],
    ("default",): [*map(isolated, (_SYMBOLS, GPT2, _NUMBERS, _THREE_DIGITS)), _PLAIN],
}
STEPS_BY_NAME = {name: steps for names, steps in _STEPS.items() for name in names}

# Names whose tokenizers normalise to NFC, take a token for what is one, and begin with a token.
NFC_NAMES = ("qwen2",)
WHOLE_TOKEN_NAMES = BEGIN_NAMES = ("llama-bpe", "llama3", "llama-v3")

"""Random texts of all of Unicode: every plane, marks, controls, joined emoji, right to left."""

import random

NASTY = [
    "", " ", "  two  spaces ", "\n\n\t", "a\r\nb\rc", "don't DON'T don’t 'Sx 'ſ", "１２３ ٣½ 12345",
    "e\u0301\u0323 é Café déjà", "\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f3fd🇫🇷 🦙.cpp",
    "\u200d👩\u200d👩\u200b\ufeffx", "\u0627\u0644 \u0639\u064b", "日本語、です \u304b\u3099",
    "a\u00a0b\u3000c\x1c\x85\u2028d", "\x00\x01a\x00", "ΑΣ Σ ΑΣΑ İi ßẞ ﬁ ™ Å",
    "가각\u1100\u1161\u11a8", "x" * 120, "ab" * 60, "<s></s>[CLS] [UNK]<unk>", "▁a▁▁b▁",
    "\U0010ffff\ufffd\uffff", "$1+2<3^4`|~ “q”…", "\u0600\u06dd1\u0903\u0d4e ", "𝒜𝟙ǅ Ⅷ ①",
    "\ufdd0\ufdd1\ufdef5",
]  # fmt: skip

_COMMON = " \n\t▁'\u0301\u200d\u00a0éß½١中文Σς🙂\r"
_JOINING = (
    "\u0300",
    "\u036f",
    "\u064b",
    "\u0903",
    "\u093c",
    "\u200d",
    "\u3099",
    "\ufe0f",
    "\u0600",
)


def random_texts(count, seed=0):
    """`count` texts of up to 40 characters."""
    draw = random.Random(seed)
    return [_text(draw) for _ in range(count)]


def _text(draw):
    return "".join(_character(draw) for _ in range(draw.randrange(1, 40)))


def _character(draw):
    kind = draw.random()
    if kind < 0.3:
        return chr(draw.randrange(32, 127))
    if kind < 0.5:
        return draw.choice(_COMMON)
    if kind < 0.58:
        return draw.choice(_JOINING)
    if kind < 0.68:
        return chr(draw.randrange(0x80, 0x800))
    if kind < 0.85:
        return chr(draw.randrange(0x800, 0xD800))
    if kind < 0.9:
        return chr(draw.randrange(0xE000, 0x10000))
    return chr(draw.randrange(0x10000, 0x110000))
